"""Bodies: what is said becomes bytes, and bytes become what the worker declared.

A body is decoded by a codec that the worker's configuration allows, whatever the message claims to be; size, decompressed
size and depth are capped before decoding, since whoever can publish is an attacker. What cannot be decoded or validated
raises ``DecodeError``, whose reason the dead letter carries; the text never quotes the body.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from encodings.aliases import aliases
from functools import cache
from importlib.util import find_spec
from typing import Any, get_args

import pydantic
import pydantic_core

from pythia.errors import ConfigError, DecodeError
from pythia.message import Envelope

JSON = "application/json"
TEXT = "text/plain"
BYTES = "application/octet-stream"
MSGPACK = "application/msgpack"

UTF8 = "utf-8"

# What stands in AMQP's content_encoding and is no compression: kombu (Celery) writes a charset there, others mail's words.
_AS_IT_IS = frozenset({"", "identity", "binary", "8bit", "7bit", "us-ascii", "ascii", "utf8", "utf-8", "utf_8"})
# Python's own codecs that are no charset of text: a compression, an escape, the domain names' (quadratic).
_NO_CHARSETS = frozenset({"rot_13", "mbcs", "idna", "punycode", "utf_7", "unicode_escape", "raw_unicode_escape"})
_CHARSETS = frozenset(name for name in aliases.values() if not name.endswith("_codec")) - _NO_CHARSETS

# Possessive, and content with a string that never ends: an attacker's quotes and backslashes cost linear time.
_OPEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)
_QUOTED_VALUE = re.compile(r"^(Invalid (?:enum )?value) .*?(?= - at `|\Z)", re.DOTALL)  # how msgspec quotes the body
_LONGEST_NAME = 80


def encode(body: Any, content_type: str | None = None) -> tuple[bytes, str]:
    """Bytes and their content type: ``bytes`` as they are, ``str`` as UTF-8, anything else as JSON.

    ``content_type`` overrides what is announced; ``application/msgpack`` also chooses the codec.

    Raises:
        TypeError: the body has no JSON form.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), content_type or BYTES
    try:
        if isinstance(body, str) and not _is_json(content_type or TEXT):
            return body.encode(), content_type or TEXT
        if content_type == MSGPACK:
            packed: bytes = _msgpack().packb(_plain(body))
            return packed, MSGPACK
        return _to_json(_plain(body)), content_type or JSON
    except (pydantic_core.PydanticSerializationError, ValueError, OverflowError) as error:
        raise TypeError(f"a body of {type(body).__name__} has no {content_type or JSON} form: {error}") from error


def _to_json(body: Any) -> bytes:
    raw = pydantic_core.to_json(body)
    if b"NaN" in raw or b"Infinity" in raw:
        pydantic_core.from_json(
            raw, allow_inf_nan=False
        )  # raises: no number of JSON's, and no decoder of ours takes it
    return raw


def _plain(body: Any) -> Any:
    """Something that pydantic can serialise: a msgspec value becomes builtins first."""
    if hasattr(type(body), "__struct_fields__"):
        import msgspec  # noqa: PLC0415 - only a msgspec value needs it

        return msgspec.to_builtins(body)
    return body


class Decoder:
    """Turns envelopes into bodies under one worker's rules.

    ``declared`` is the type of the body (a pydantic model, a dataclass, a msgspec Struct, a builtin), or None for whatever
    was said.
    """

    def __init__(
        self,
        codecs: Sequence[str],
        declared: Any = None,
        *,
        body_bytes: int,
        decompressed_bytes: int,
        depth: int,
    ) -> None:
        if "msgpack" in codecs and find_spec("msgpack") is None:
            raise ConfigError("codecs: msgpack is not installed; pip install 'pythia-worker[msgpack]'", key="codecs")
        self._codecs = tuple(codecs)
        self._takes_json = "json" in self._codecs
        self._body_bytes = body_bytes
        self._decompressed_bytes = decompressed_bytes
        self._depth = depth
        self._validate = _validator(declared)
        self._parse = _parser(declared)

    def decode(self, envelope: Envelope) -> Any:
        """The body of ``envelope``.

        Raises:
            DecodeError: too large, undecodable, or not what was declared; the reason says which.
        """
        raw = envelope.body
        if len(raw) > self._body_bytes:
            raise DecodeError(f"the body has {len(raw)} bytes, the limit is {self._body_bytes}", reason="too_large")
        if envelope.content_type == JSON and not envelope.content_encoding and self._takes_json:  # as nearly always
            return self._json(raw)
        return self._decoded(raw, envelope)

    def _decoded(self, raw: bytes, envelope: Envelope) -> Any:
        charset = UTF8
        if envelope.content_encoding:
            raw, charset = self._unwrapped(raw, str(envelope.content_encoding).strip().lower())
        return self._read(self._codec(envelope.content_type), raw, charset)

    def _codec(self, content_type: str) -> str:
        kind = content_type.partition(";")[0].strip().lower()
        if not kind or _is_json(kind):
            codec = "json"
        elif kind.startswith("text/"):
            codec = "text"
        elif kind in (MSGPACK, "application/x-msgpack"):
            codec = "msgpack"
        else:
            codec = "bytes"
        if codec not in self._codecs:
            raise DecodeError(
                f"content type {kind[:80]!r} needs codec {codec}; this worker allows {list(self._codecs)}"
            )
        return codec

    def _unwrapped(self, raw: bytes, encoding: str) -> tuple[bytes, str]:
        """The body without its compression, and the charset that its text is in."""
        if encoding in _AS_IT_IS:
            return raw, UTF8
        if (charset := _charset(encoding)) is not None:
            return raw, charset
        return self._decompress(raw, encoding), UTF8

    def _read(self, codec: str, raw: bytes, charset: str) -> Any:
        match codec:
            case "json":
                return self._json(raw if charset == UTF8 else _text(raw, charset).encode("utf-8", "surrogatepass"))
            case "text":
                return self._valid(_text(raw, charset))
            case "msgpack":
                return self._valid(self._unpack(raw))
            case _:
                return self._valid(raw)

    def _valid(self, body: Any) -> Any:
        return body if self._validate is None else self._validate(body)

    def _json(self, raw: bytes) -> Any:
        if raw.count(b"[") + raw.count(b"{") > self._depth:
            self._check_depth(raw)
        if self._parse is not None:
            return self._parse(raw)
        try:
            body = pydantic_core.from_json(raw, allow_inf_nan=False)
        except ValueError as error:
            raise DecodeError(f"the body is not JSON: {error}") from None
        return self._valid(body)

    def _check_depth(self, raw: bytes) -> None:
        depth = 0
        for match in _OPEN.finditer(raw):
            token = match[0]
            if token in b"[{":
                depth += 1
                if depth > self._depth:
                    raise DecodeError(f"the body is nested deeper than {self._depth}", reason="too_large")
            elif token in b"]}":
                depth -= 1

    def _unpack(self, raw: bytes) -> Any:
        try:
            body = _msgpack().unpackb(raw)
        except Exception as error:  # noqa: BLE001 - msgpack raises a family of unrelated types on hostile input
            raise DecodeError(f"the body is not msgpack: {type(error).__name__}") from None
        depth, layer = 0, [body]
        while layer := [inner for outer in layer for inner in _parts(outer)]:
            depth += 1
            if depth > self._depth:
                raise DecodeError(f"the body is nested deeper than {self._depth}", reason="too_large")
        return body

    def _decompress(self, raw: bytes, encoding: str) -> bytes:
        bits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "zlib": 15}.get(encoding)
        if bits is None:
            raise DecodeError(f"content encoding {encoding[:40]!r} is not one of gzip, deflate, nor a charset")
        inflate = zlib.decompressobj(bits)
        try:
            body = inflate.decompress(raw, self._decompressed_bytes + 1)
        except zlib.error as error:
            raise DecodeError(f"the body is not {encoding}: {error}") from None
        if len(body) > self._decompressed_bytes:
            limit = self._decompressed_bytes
            raise DecodeError(f"the body decompresses to more than {limit} bytes", reason="too_large")
        if not inflate.eof:
            raise DecodeError(f"the body is cut short: its {encoding} stream does not end")
        if inflate.unused_data:
            raise DecodeError(f"the body goes on behind the end of its {encoding} stream")
        return body


def _is_json(kind: str) -> bool:
    return kind.startswith(JSON) or kind.endswith("+json")


def _parts(body: Any) -> Iterable[Any]:
    """What is nested in ``body``, one level down."""
    return body.values() if isinstance(body, dict) else body if isinstance(body, list) else ()


def _charset(encoding: str) -> str | None:
    """Python's name of a charset; None if it is none. Never looked up by a name that is not known: Python would remember
    each for ever, and whoever can publish chooses them."""
    word = re.sub(r"[^a-z0-9]+", "_", encoding)
    name = aliases.get(word, word)
    return name if name in _CHARSETS else None


def _text(raw: bytes, charset: str) -> str:
    try:
        return raw.decode(charset)
    except UnicodeDecodeError as error:
        shown = charset.replace("_", "-").upper()
        raise DecodeError(f"the body is not {shown} text: {error.reason} at byte {error.start}") from None


@cache
def _msgpack() -> Any:
    import msgpack  # noqa: PLC0415 - an extra; Decoder checks that it is there

    return msgpack


def _validator(declared: Any) -> Callable[[Any], Any] | None:
    if declared is None or declared is Any:
        return None
    if _has_struct(declared):
        return _msgspec_validator(declared)
    try:
        adapter = pydantic.TypeAdapter(declared)
    except pydantic.errors.PydanticUserError as error:
        raise ConfigError(f"message_type: bodies cannot be validated as {declared!r}: {error.message}") from None

    def validate(body: Any) -> Any:
        try:
            return adapter.validate_python(body)
        except pydantic.ValidationError as error:
            raise DecodeError(_fields(error), reason="invalid") from None

    return validate


def _has_struct(declared: Any) -> bool:
    """Whether it is, or is made of, a msgspec type (``Box | Bag``, ``list[Box]``)."""
    return hasattr(declared, "__struct_fields__") or any(_has_struct(inner) for inner in get_args(declared))


def _parser(declared: Any) -> Callable[[bytes], Any] | None:
    """What makes a body of JSON at once, where msgspec can: nothing that is not declared is ever built."""
    if not _has_struct(declared):
        return None
    import msgspec  # noqa: PLC0415 - only a msgspec type needs it

    try:
        decode = msgspec.json.Decoder(declared).decode
    except TypeError as error:
        raise ConfigError(f"message_type: bodies cannot be validated as {declared!r}: {error}") from None

    def parse(raw: bytes) -> Any:
        try:
            return decode(raw)
        except msgspec.ValidationError as error:
            raise _invalid(error) from None
        except ValueError as error:
            raise DecodeError(f"the body is not JSON: {error}") from None

    return parse


def _msgspec_validator(declared: Any) -> Callable[[Any], Any]:
    import msgspec  # noqa: PLC0415 - only a msgspec type needs it

    def validate(body: Any) -> Any:
        try:
            return msgspec.convert(body, declared)
        except msgspec.ValidationError as error:
            raise _invalid(error) from None

    return validate


def _invalid(error: Exception) -> DecodeError:
    return DecodeError(_QUOTED_VALUE.sub(r"\1", str(error)), reason="invalid")


def _fields(error: pydantic.ValidationError) -> str:
    """Which fields, and why, without the values."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(str(part)[:_LONGEST_NAME] for part in p['loc']) or 'body'}: {_why(p)}" for p in problems[:10]]
    more = f" (and {len(problems) - 10} more)" if len(problems) > 10 else ""
    return f"{error.title}: {'; '.join(lines)}{more}"


def _why(problem: Any) -> str:
    """The problem's sentence; the one kind that quotes the body is put in other words."""
    return "the tag is none of those expected" if problem["type"] == "union_tag_invalid" else str(problem["msg"])
