"""URLs: no password is shown, whatever it is made of; what can be no broker is refused without quoting it."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pythia.config import WorkerConfig, redact_url
from pythia.errors import ConfigError


@pytest.fixture(autouse=True)
def _empty_directory(workdir):
    """No file is found."""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:p@h/v", "amqp://u:***@h/v"),
        ("amqp://u:p@ss/w:rd%@h:5672/v", "amqp://u:***@h:5672/v"),
        ("amqps://u:p%40ss@h", "amqps://u:***@h"),
        ("redis://:pw@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://h/0?password=a&mode=list", "redis://h/0?password=***&mode=list"),
        ("redis://h/0?mode=list&PASSWD=a%20b#x", "redis://h/0?mode=list&PASSWD=***"),
        ("redis://h/0?auth_token=t&a=b", "redis://h/0?auth_token=***&a=b"),
        ("redis://h:6379/0?password=a@b", "redis://h:***?password=***"),
        ("amqp://u@h/", "amqp://u@h/"),
        ("amqp://h/", "amqp://h/"),
        ("u:pw@h", "u:***@h"),
        ("memory://", "memory://"),
        ("sqlite:////srv/a:b@c/x.db", "sqlite:////srv/a:b@c/x.db"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str):
    assert redact_url(url) == shown


MARK = "S3CR3T"
PIECES = st.text(string.punctuation + string.ascii_letters + string.digits, max_size=8)


@given(
    before=PIECES, after=PIECES, user=st.text(string.ascii_lowercase, max_size=5), path=st.sampled_from(["", "/", "/v"])
)
def test_no_piece_of_a_password_is_shown_however_it_is_written(before: str, after: str, user: str, path: str):
    assert MARK not in redact_url(f"amqp://{user}:{before}{MARK}{after}@host{path}")
    assert MARK not in redact_url(f"amqp://{user}:{quote(before + MARK + after, safe='')}@host{path}?heartbeat=5")
    assert MARK not in redact_url(f"redis://host{path}?password={quote(before + MARK + after, safe='')}&mode=list")


@given(
    user=st.text(string.ascii_lowercase, min_size=1),
    password=st.text(min_size=1),
    host=st.sampled_from(["h", "h:5672"]),
)
def test_an_escaped_password_leaves_the_rest_readable(user: str, password: str, host: str):
    url = f"amqp://{user}:{quote(password, safe='')}@{host}/v"
    assert redact_url(url) == f"amqp://{user}:***@{host}/v"


@given(st.text())
def test_any_text_at_all_can_be_redacted(text: str):
    assert isinstance(redact_url(text), str)


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "sqlite:///pythia.db",
        "sqlite:////var/lib/pythia.db",
        "sqlite:///a/b.db?x=1",
        "amqp://localhost",
        "amqps://u:p%2F@h:5671/vhost",
        "amqp://[::1]:5672/",
        "redis://localhost:6379/0?mode=pubsub",
        "rediss://h/0?mode=list&timeout=5",
    ],
)
def test_what_names_a_broker_is_taken(url: str):
    assert WorkerConfig(broker={"url": url}).broker.url.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("kafka://u:pw@h", "begins with kafka://, which is none of memory://, sqlite://, amqp://"),
        ("ampq://u:pw@h", "did you mean amqp://?"),
        ("AMQP://u:pw@h", "did you mean amqp://?"),
        ("pw", "must be a URL that begins with"),
        ("u:pw@h", "must be a URL that begins with"),
        ("", "must be a URL that begins with"),
        ("sqlite://q.db", "needs three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:////", "names no file"),
        ("sqlite:///:memory:", "use memory://"),
        ("amqp://", "names no host"),
        ("amqp://u:pw@/v", "names no host"),
        ("amqp://u:p/w@h/", "write @ : / ? # as %40"),
        ("amqp://h:port/", "write @ : / ? # as %40"),
        ("amqp://h:99999/", "has a host or port that cannot be read"),
        ("amqp://[::1/", "has a host or port that cannot be read"),
        ("redis://h/0?mode=queue", "none of stream, list, pubsub"),
        ("redis://u:pw@h/0\n", "must not contain spaces"),
        ("redis://u:p w@h/0", "must not contain spaces"),
    ],
)
def test_what_names_none_is_refused_without_a_password(url: str, sentence: str):
    with pytest.raises(ConfigError) as caught:
        WorkerConfig(broker={"url": url})
    assert sentence in str(caught.value)
    assert "pw" not in str(caught.value)
    assert "pw" not in str(caught.value.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_store_is_no_message_broker():
    with pytest.raises(ConfigError, match=r"dedup\.store_url"):
        WorkerConfig(dedup={"store_url": "amqp://h/"})
