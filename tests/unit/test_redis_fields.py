"""Messages survive Redis: ours exactly, a stranger's as well as it can be read, and yesterday's today."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.brokers.redis import fields
from pythia.message import Envelope

WORDS = st.binary(max_size=40)
FOREIGN = st.lists(st.tuples(WORDS, WORDS), max_size=8).map(lambda rows: [word for row in rows for word in row])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.none() | st.text(max_size=20)
ENVELOPES = st.builds(
    Envelope,
    st.binary(max_size=60),
    id=st.text(min_size=1, max_size=20),
    headers=st.dictionaries(st.text(max_size=20) | st.sampled_from(["body", "pythia-id", "content-type"]), VALUES),
    content_type=st.text(max_size=20),
    content_encoding=TEXTS,
    correlation_id=TEXTS,
    reply_to=TEXTS,
    priority=st.none() | st.integers(),
    timestamp=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    idempotency_key=TEXTS,
    ordering_key=TEXTS,
)
PROPERTIES = [name for name in Envelope.__slots__ if name != "headers"]

GOLDEN = Envelope(
    b'{"sku": 1}',
    id="0193-a",
    headers={"traceparent": "00-4bf9-01", "n": 7, "raw": b"\xff"},
    content_type="application/vnd.order+json",
    priority=3,
    timestamp=1700000000.25,
    correlation_id="c",
)
GOLDEN_FIELDS = [
    *(b"body", b'{"sku": 1}', b"pythia-id", b"0193-a", b"pythia-content-type", b"application/vnd.order+json"),
    *(b"pythia-published-at", b"1700000000.25", b"pythia-priority", b"3", b"pythia-correlation-id", b"c"),
    *(b"traceparent", b"00-4bf9-01", b"pythia-headers", b'{"n":7,"raw":{"$bytes":"/w=="}}'),
]
GOLDEN_PAYLOAD = b"\x00pythia\x01" + bytes.fromhex(
    "00000004626f6479000000017800000009 7079746869612d69640000000131".replace(" ", "")
)


def same(one: Envelope, other: Envelope) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in PROPERTIES) and dict(one.headers) == dict(
        other.headers
    )


@given(ENVELOPES)
def test_what_we_write_is_what_we_read(sent):
    read, marks = fields.envelope_of(fields.fields_of(sent))
    assert same(read, sent)
    assert not marks.keys() & fields.MARKS
    assert [type(read.headers[name]) for name in sent.headers] == [type(value) for value in sent.headers.values()]


def test_a_message_written_by_the_first_version_is_read_and_written_the_same():
    assert fields.fields_of(GOLDEN) == GOLDEN_FIELDS
    assert same(fields.envelope_of(GOLDEN_FIELDS)[0], GOLDEN)
    assert fields.wrap([b"body", b"x", b"pythia-id", b"1"]) == GOLDEN_PAYLOAD
    assert fields.unwrap(GOLDEN_PAYLOAD) == [b"body", b"x", b"pythia-id", b"1"]


@given(FOREIGN)
def test_no_foreign_entry_is_too_strange_to_be_read_and_copied_byte_for_byte(words):
    first, marks = fields.envelope_of(words)
    assert isinstance(first.body, bytes)
    assert fields.attempt_of(marks) >= 1
    assert fields.deliveries_of(marks) >= 0
    assert fields.first_seen_of(marks, 50.0, 100.0) <= 100.0
    copy = fields.marked(words, fields.marks_of(attempt=2, first_seen=50.0, deliveries=1, identity="1-0"))
    kept = [row for row in fields.pairs(words) if row[0] not in fields.MARKS]
    assert list(fields.pairs(copy))[: len(kept)] == kept
    again, marks = fields.envelope_of(copy)
    assert (again.id, again.body) == (first.id, first.body)
    assert fields.attempt_of(marks) == 2


@given(FOREIGN)
def test_packed_fields_and_payloads_come_back(words):
    assert fields.unpack(fields.pack(words)) == words
    assert fields.unwrap(fields.wrap(words)) == words
    assert fields.unbounded(fields.bounded(words)) == words


def test_more_fields_than_a_script_can_take_travel_as_one():
    many = [b"%d" % number for number in range(10_000)]
    assert len(fields.bounded(many)) == 2
    assert fields.unbounded(fields.bounded(many)) == many


@given(st.binary())
def test_a_payload_that_only_begins_like_ours_is_a_body(rest):
    payload = b"\x00pythia\x01" + rest
    words = fields.unwrap(payload)
    assert words == [b"body", payload] or fields.wrap(words) == payload


@pytest.mark.parametrize("payload", [b"", b'{"a": 1}', b"\x00pythia\x02\x00\x00\x00\x01x", b"\x00pythia"])
def test_a_strangers_payload_is_the_body_as_it_is(payload):
    envelope, marks = fields.envelope_of(fields.unwrap(payload))
    assert (envelope.body, dict(envelope.headers), dict(marks)) == (payload, {}, {})


@pytest.mark.parametrize(
    ("words", "body", "headers"),
    [
        ([b"body", b"x", b"traceparent", b"00-1", b"raw", b"\xff"], b"x", {"traceparent": "00-1", "raw": b"\xff"}),
        ([b"data", b"x"], b"x", {}),
        ([b"data", b"x", b"pythia-attempt", b"3"], b"x", {}),
        ([], b"", {}),
        ([b"body", b"x", b"pythia-flavour", b"mild"], b"x", {"pythia-flavour": "mild"}),
    ],
)
def test_the_payload_of_a_foreign_entry_is_its_body_or_its_only_field(words, body, headers):
    envelope, _ = fields.envelope_of(words)
    assert (envelope.body, dict(envelope.headers)) == (body, headers)


def test_a_foreign_entry_without_a_body_is_an_object_of_its_fields():
    envelope, _ = fields.envelope_of([b"sku", b"7", b"raw", b"\xff\x00", b"traceparent", b"00-1"])
    assert json.loads(envelope.body) == {"sku": "7", "raw": {"base64": "/wA="}, "traceparent": "00-1"}
    assert dict(envelope.headers) == {"traceparent": "00-1"}
    assert envelope.content_type == "application/json"


def test_a_foreign_entry_says_its_content_type_in_a_header():
    assert fields.envelope_of([b"body", b"x", b"content-type", b"text/plain"])[0].content_type == "text/plain"
    assert fields.envelope_of([b"body", b"x", b"content_type", b"text/plain"])[0].content_type == "text/plain"


def test_the_id_of_a_foreign_entry_is_the_same_in_every_copy_and_another_for_another_entry():
    entry = [b"body", b"x", b"kind", b"a"]
    key = fields.envelope_of(entry)[0].id
    copy = fields.marked(entry, fields.marks_of(attempt=3, first_seen=1.0, deliveries=2, identity="1-1"))
    assert fields.envelope_of(copy)[0].id == key
    assert fields.envelope_of([b"body", b"x", b"kind", b"b"])[0].id != key
    assert fields.envelope_of([b"body", b"xk", b"ind", b"a"])[0].id != key


@pytest.mark.parametrize("forged", [b"abc", b"-5", b"0", b"1e9", b"", b"9" * 5000, b"\xff", b"nan", b"0x10"])
def test_a_forged_attempt_is_the_first(forged):
    assert fields.attempt_of({fields.ATTEMPT: forged}) == 1


@pytest.mark.parametrize("forged", [b"inf", b"nan", b"9e99", b"tomorrow", b""])
def test_a_forged_first_seen_is_never_in_the_future(forged):
    assert fields.first_seen_of({fields.FIRST_SEEN: forged}, 50.0, 100.0) <= 100.0


@pytest.mark.parametrize("written", [b"[1]", b"{", b'{"a": {"$bytes": 3}}', b"7", b"\xff"])
def test_headers_that_cannot_be_read_are_kept_as_they_are(written):
    headers = fields.envelope_of([b"body", b"x", b"pythia-headers", written, b"a", b"1"])[0].headers
    assert headers["a"] == "1"
    assert "pythia-headers" in headers


def test_a_header_that_cannot_be_written_down_is_an_error():
    for value in ({1: 2}, object(), {"a"}):
        with pytest.raises(TypeError):
            fields.fields_of(Envelope(b"", id="1", headers={"x": value}))
    with pytest.raises(ValueError):
        fields.fields_of(Envelope(b"", id="1", headers={"\ud800": "x"}))
