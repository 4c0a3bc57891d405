"""Bodies: whoever can publish is an attacker, and no text of ours quotes what he sent."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgpack
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.core.codecs import Decoder, encode
from pythia.core.worker import Worker
from pythia.errors import ConfigError, DecodeError
from pythia.message import Envelope, Message
from tests.unit.core_kit import running

LIMITS = {"body_bytes": 10_000, "decompressed_bytes": 50_000, "depth": 128}
DEFAULT = ("json", "text", "bytes")


def decode(
    body: bytes,
    content_type: str = "application/json",
    encoding: str | None = None,
    *,
    codecs: tuple[str, ...] = DEFAULT,
    declared: Any = None,
    **limits: int,
) -> Any:
    envelope = Envelope(body, id="i", content_type=content_type, content_encoding=encoding)
    return Decoder(codecs, declared, **{**LIMITS, **limits}).decode(envelope)


def refusal(*args: Any, **options: Any) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode(*args, **options)
    return caught.value


# Out and in again.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_is_json_comes_back_as_it_was(value):
    raw, kind = encode(value, "application/json")
    assert kind == "application/json"
    assert decode(raw, kind, body_bytes=10**6) == value
    assert json.loads(raw) == value


@given(st.binary())
def test_bytes_come_back_as_they_were(value):
    assert decode(*encode(value)) == value
    assert encode(bytearray(value))[0] == encode(memoryview(value))[0] == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back_as_it_was(value):
    assert decode(*encode(value)) == value


def test_text_said_to_be_json_is_a_json_string():
    assert encode("x", "application/json") == (b'"x"', "application/json")


@dataclasses.dataclass
class Sum:
    total: int
    at: datetime


class Order(pydantic.BaseModel):
    sku: str
    count: int = 1


class Parcel(msgspec.Struct):
    weight: int


@pytest.mark.parametrize("value", [Sum(3, datetime(2020, 1, 1, tzinfo=UTC)), Order(sku="a"), Parcel(2)], ids=repr)
def test_values_of_declared_types_come_back_as_those(value):
    assert decode(*encode(value), declared=type(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        [float("inf")],
        {"a": [-float("inf")]},
        "\ud800",
        {"a": "\ud800"},
        object(),
        {1: object()},
        b"\xff" * 2,
    ],
    ids=lambda v: ascii(v)[:20],
)
def test_what_has_no_wire_form_is_refused_when_it_is_said(value):
    kind = "text/plain" if isinstance(value, str) else None
    if isinstance(value, bytes):
        value = {"inner": value}
    with pytest.raises(TypeError, match="form"):
        encode(value, kind)


def test_words_that_look_like_no_numbers_are_just_words():
    assert decode(*encode({"NaN": "Infinity", "n": "-Infinity"})) == {"NaN": "Infinity", "n": "-Infinity"}


def test_msgpack_is_there_for_whoever_chooses_it():
    raw, kind = encode({"a": [1, b"x"]}, "application/msgpack")
    assert kind == "application/msgpack"
    for said in (kind, "application/x-msgpack"):
        assert decode(raw, said, codecs=("msgpack",)) == {"a": [1, b"x"]}
    assert refusal(raw, kind).reason == "undecodable"
    assert refusal(b"\xc1", kind, codecs=("msgpack",)).reason == "undecodable"
    with pytest.raises(TypeError, match="form"):
        encode({"a": 2**70}, "application/msgpack")


def test_msgpack_depth_is_capped_too():
    deep: Any = 1
    for _ in range(100):
        deep = [deep, {"x": deep}] if len(repr(deep)) < 500 else [deep]
    raw = msgpack.packb(deep)
    assert decode(raw, "application/msgpack", codecs=("msgpack",), depth=150, body_bytes=10**6) == deep
    assert refusal(raw, "application/msgpack", codecs=("msgpack",), depth=50, body_bytes=10**6).reason == "too_large"
    assert refusal(b"\x91" * 9000, "application/msgpack", codecs=("msgpack",)).reason in ("too_large", "undecodable")


# What attackers send.


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":}',
        b"\xff\xfe",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'"\\ud800"',
        b"nul",
        b"1 2",
        b"'x'",
        b"\x00",
    ],
    ids=repr,
)
def test_what_is_not_json_is_undecodable(body):
    assert refusal(body).reason == "undecodable"


@pytest.mark.parametrize(
    "body", [b"", b'{"weight":', b'{"weight":NaN}', b'{"weight":1}}', b'{"weight":1} {}'], ids=repr
)
def test_what_is_not_json_is_undecodable_where_msgspec_reads_it_too(body):
    assert refusal(body, declared=Parcel).reason == "undecodable"


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'], ids=repr)
def test_depth_is_capped_before_decoding(opening):
    closing = {b"[": b"]", b'{"a":': b"}", b'[{"a":': b"}]"}[opening]
    levels = 2 if opening.startswith(b"[{") else 1
    fits = 128 // levels
    assert decode(opening * fits + b"1" + closing * fits) is not None
    assert refusal(opening * (fits + 1) + b"1" + closing * (fits + 1)).reason == "too_large"
    assert refusal(opening * 1200).reason == "too_large"


def test_brackets_inside_strings_are_no_depth():
    text = '\\"[{' * 500
    assert decode(json.dumps([text, {"k[": "}]"}]).encode()) == [text, {"k[": "}]"}]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 0 + b'"' + b'\\"' * 2_000_000 + b"[" * 200,
        b'"' * 4_000_001 + b"[" * 200,
        b'"' + b"\\" * 4_000_001 + b"[" * 200,
        b'"a\\' * 1_000_000 + b"[" * 200,
        b"[" * 100 + b"]" * 100 + b'"' + b'\\"' * 2_000_000,
    ],
    ids=["escapes", "quotes", "backslashes", "mixed", "brackets first"],
)
def test_no_body_makes_the_depth_check_slow(body):
    assert refusal(body, body_bytes=2**24, depth=64).reason in ("undecodable", "too_large")


def test_size_is_capped():
    assert decode(b'"' + b"a" * 9_998 + b'"') == "a" * 9_998
    assert refusal(b'"' + b"a" * 9_999 + b'"').reason == "too_large"


def test_a_compressed_body_is_inflated_within_its_limit():
    body = json.dumps({"a": "b" * 40_000}).encode()
    for name, packed in (
        ("gzip", gzip.compress(body)),
        ("x-GZIP", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
    ):
        assert decode(packed, encoding=name) == {"a": "b" * 40_000}
    exact = b'"' + b"a" * 49_998 + b'"'
    assert len(decode(gzip.compress(exact), encoding="gzip")) == 49_998
    assert refusal(gzip.compress(exact + b" "), encoding="gzip").reason == "too_large"


def test_a_gzip_bomb_is_defused():
    bomb = gzip.compress(gzip.compress(b"\0" * 200_000_000, 9), 9)
    assert len(bomb) < 10_000
    once = zlib.decompress(bomb, 31)
    assert refusal(once, encoding="gzip", body_bytes=10**6).reason == "too_large"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"[1]")[:-3], "gzip"),
        (gzip.compress(b"[1]") + b"more", "gzip"),
        (gzip.compress(b"[1") + gzip.compress(b"]"), "gzip"),
        (b"[1]", "br"),
        (b"[1]", "\ud800" * 100),
    ],
    ids=["not", "cut short", "more", "two", "unknown", "odd"],
)
def test_a_body_that_is_not_what_its_encoding_says_is_undecodable(body, encoding):
    assert refusal(body, encoding=encoding).reason == "undecodable"


WORDS = ["identity", "utf-8", "UTF-8", "utf8", "us-ascii", "ASCII", "binary", "8bit", "7Bit", " utf-8 "]


@pytest.mark.parametrize("name", [None, "", *WORDS])
def test_an_encoding_that_is_no_compression_leaves_the_body_as_it_is(name):
    assert decode('["é"]'.encode(), encoding=name) == ["é"]
    assert decode("é".encode(), "text/plain", name) == "é"
    assert decode(b"\xff\x00", "application/octet-stream", name) == b"\xff\x00"


@pytest.mark.parametrize("name", ["latin-1", "ISO-8859-1", "iso-8859-15", "windows-1252", "cp1252"])
def test_a_charset_that_stands_for_the_encoding_is_the_charset_of_text_and_json(name):
    assert decode('["é"]'.encode("latin-1"), encoding=name) == ["é"]
    assert decode("é".encode("latin-1"), "text/plain", name) == "é"
    assert decode(b"\xe9", "application/octet-stream", name) == b"\xe9"


def test_a_charset_of_several_bytes_is_read_before_the_body_is_looked_into():
    assert decode("[[1]]".encode("utf-16"), encoding="utf-16") == [[1]]
    deep = ("[" * 200 + "]" * 200).encode("utf-16")
    assert refusal(deep, encoding="utf-16").reason == "too_large"
    assert refusal(b"\xff", "text/plain", encoding="utf-16").reason == "undecodable"
    assert decode(msgpack.packb([1]), "application/msgpack", "latin-1", codecs=("msgpack",)) == [1]


@pytest.mark.parametrize(
    "name",
    ["zip", "bz2", "zlib_codec", "hex", "base64", "rot13", "idna", "punycode", "unicode_escape", "mbcs", "os.path"],
)
def test_what_python_calls_an_encoding_and_is_no_charset_is_refused(name):
    assert refusal(b"[1]", encoding=name).reason == "undecodable"


def test_names_of_encodings_that_producers_make_up_are_not_remembered():
    import encodings

    before = len(encodings._cache)
    for n in range(50):
        assert refusal(b"[1]", encoding=f"x-{n}").reason == "undecodable"
    assert len(encodings._cache) == before


def test_what_kombu_writes_is_decoded():
    body = json.dumps({"task": "pay", "id": 7}).encode()
    assert decode(body, "application/json", "utf-8") == {"task": "pay", "id": 7}
    assert decode(b"hello", "text/plain", "utf-8") == "hello"
    assert decode(b"\x80", "application/data", "binary") == b"\x80"


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json; charset=utf-8", {"a": 1}),
        ("application/vnd.shop+json", {"a": 1}),
        ("", {"a": 1}),
        ("APPLICATION/JSON", {"a": 1}),
        ("text/plain", '{"a":1}'),
        ("text/csv", '{"a":1}'),
        ("application/python-pickle", b'{"a":1}'),
        ("image/png", b'{"a":1}'),
        ("no/such;thing", b'{"a":1}'),
    ],
)
def test_the_content_type_chooses_among_the_codecs_that_are_allowed(content_type, expected):
    assert decode(b'{"a":1}', content_type) == expected


@pytest.mark.parametrize("content_type", ["text/plain", "image/png", "application/msgpack"])
def test_a_codec_that_is_not_allowed_is_not_used_whatever_a_message_claims(content_type):
    error = refusal(b"[1]", content_type, codecs=("json",))
    assert error.reason == "undecodable"
    assert "allows ['json']" in str(error)


def test_text_that_is_not_utf8_is_undecodable():
    assert refusal(b"\xff", "text/plain").reason == "undecodable"


@given(
    st.binary(max_size=300),
    st.sampled_from(["application/json", "text/plain", "application/msgpack", "x", ""]),
    st.sampled_from([None, "gzip", "deflate", "utf-8", "latin-1", "utf-16", "utf-32-be", "hz", "cp037"]),
)
def test_any_bytes_are_decoded_or_refused_and_nothing_else(body, content_type, encoding):
    with contextlib.suppress(DecodeError):
        decode(body, content_type, encoding, codecs=(*DEFAULT, "msgpack"))


# Declared types.


class Colour(enum.Enum):
    RED = "red"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Box(msgspec.Struct, tag="box"):
    n: int


class Bag(msgspec.Struct, tag="bag"):
    n: int


class Painted(msgspec.Struct):
    colour: Colour


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Order, {"sku": ["secret"]}),
        (Order, {"count": "secret"}),
        (Order, "secret"),
        (Sum, {"total": "secret", "at": "secret"}),
        (Parcel, {"weight": "secret"}),
        (Painted, {"colour": "secret"}),
        (Box | Bag, {"type": "secret", "n": 1}),
        (list[Parcel], [{"weight": "secret"}]),
        (Colour, "secret"),
        (int, "secret"),
        (list[int], ["secret"]),
        (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], {"kind": "secret"}),
        (pydantic.AnyUrl, "secret"),
        (datetime, "secret"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_is_not_what_was_declared_is_invalid_and_the_text_says_where_without_the_value(declared, value):
    error = refusal(json.dumps(value).encode(), declared=declared)
    assert error.reason == "invalid"
    assert "secret" not in str(error)
    assert str(error)


def test_a_text_about_many_problems_is_short():
    error = refusal(json.dumps({"k" * 5000: "x"}).encode(), declared=dict[str, int])
    assert len(str(error)) < 500
    many = refusal(json.dumps(["x"] * 500).encode(), declared=list[int])
    assert "490 more" in str(many)


def test_a_type_that_nothing_can_validate_is_a_configuration_error():
    class Opaque:
        pass

    with pytest.raises(ConfigError, match="Opaque"):
        Decoder(DEFAULT, Opaque, **LIMITS)


def test_a_union_that_msgspec_cannot_tell_apart_is_a_configuration_error():
    with pytest.raises(ConfigError, match=r"message_type.*more than one"):
        Decoder(DEFAULT, Parcel | dict, **LIMITS)


def test_a_struct_is_read_from_json_as_its_fields_are_declared():
    class Ledger(msgspec.Struct):
        sums: dict[int, float]
        raw: bytes

    assert decode(b'{"sums":{"7":1.5},"raw":"aGk=","more":[1]}', declared=Ledger) == Ledger({7: 1.5}, b"hi")


def test_an_unknown_codec_that_is_not_installed_is_a_configuration_error(monkeypatch):
    monkeypatch.setattr("pythia.core.codecs.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="msgpack"):
        Decoder(("json", "msgpack"), **LIMITS)


class Typed(Worker):
    def __init__(self, config=None):
        super().__init__(config)
        self.bodies: list[Any] = []

    async def process_message(self, message: Message[Order]) -> None:
        self.bodies.append(message.body)


class TypedByAttribute(Typed):
    message_type = Parcel

    async def process_message(self, message):
        self.bodies.append(message.body)


class TypedBatch(Typed):
    async def process_batch(self, messages: list[Message[Sum]]) -> None:
        self.bodies += [message.body for message in messages]


@pytest.mark.parametrize(
    ("worker", "good", "made"),
    [
        (Typed, {"sku": "a", "count": 2}, Order(sku="a", count=2)),
        (TypedByAttribute, {"weight": 3}, Parcel(3)),
        (TypedBatch, {"total": 1, "at": "2020-01-01T00:00:00Z"}, Sum(1, datetime(2020, 1, 1, tzinfo=UTC))),
    ],
)
async def test_a_worker_gets_what_it_declares_and_the_rest_is_dead_lettered_at_once(worker, good, made):
    async with running(worker, batch__size=1) as kit:
        ids = [await kit.publish(good), await kit.publish({"sku": ["secret"]}), await kit.publish("secret")]
        assert [await kit.settled(one) for one in ids] == [["ack"], ["dead_letter"], ["dead_letter"]]
        assert kit.worker.bodies == [made]
        for letter in await kit.dead():
            assert letter.reason == "invalid"
            assert letter.attempts == 1
            assert "secret" not in f"{letter.detail}{letter.error_message}{letter.traceback}"


async def test_limits_and_codecs_are_settings():
    seen: list[Any] = []

    class Sees(Worker):
        async def process_message(self, message):
            seen.append(message.body)

    async with running(Sees, limits__body_bytes=100, limits__depth=2, codecs=["json", "msgpack"]) as kit:
        packed = await kit.publish({"a": 1}, content_type="application/msgpack")
        large = await kit.publish("a" * 200, content_type="application/json")
        deep = await kit.publish([[[1]]])
        text = await kit.publish("text")
        assert [await kit.settled(one) for one in (packed, large, deep, text)] == [["ack"], *[["dead_letter"]] * 3]
        assert seen == [{"a": 1}]
        assert [letter.reason for letter in await kit.dead()] == ["too_large", "too_large", "undecodable"]
