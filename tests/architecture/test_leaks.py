"""The check for secrets finds a planted one, says where, and does not show it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.architecture import leaks

LETTERS = "Ab3" * 20

# Put together here, so that this file has none.
PLANTED = {
    "a private key": ["-----BEGIN " + kind + "PRIVATE KEY-----" for kind in ("", "RSA ", "OPENSSH ", "EC ")],
    "an AWS access key": ["AKIA" + "ABCDEFGH01234567", "id=ASIA" + "ABCDEFGH01234567"],
    "an AWS secret key": ["aws_secret_" + "access_key = " + LETTERS[:40]],
    "a GitHub token": ["ghp_" + LETTERS[:36], "github_pat_" + LETTERS[:30]],
    "a GitLab token": ["glpat-" + LETTERS[:20]],
    "a Slack token": ["xoxb-" + LETTERS[:20]],
    "a Stripe key": ["sk_live_" + LETTERS[:24]],
    "a Google API key": ["AIza" + LETTERS[:35]],
    "a PyPI token": ["pypi-AgE" + LETTERS[:50]],
    "a JSON web token": [f"eyJ{LETTERS[:20]}.eyJ{LETTERS[:20]}.{LETTERS[:20]}"],
    "a password in a URL": [f"{scheme}:{LETTERS[:9]}@host/" for scheme in ("amqp://shop", "redis://", "https://me")],
    "a secret in the text": [f'{name} = "{LETTERS[:20]}"' for name in ("ADMIN_TOKEN", "password", "api_key")],
}


def test_this_project_has_none(capsys):
    assert leaks.main() == 0, capsys.readouterr().out


def test_every_kind_is_planted():
    assert PLANTED.keys() == leaks.PATTERNS.keys()


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PLANTED.items() for text in texts])
def test_a_planted_secret_is_found_with_its_line(kind, text):
    assert (3, kind) in list(leaks.found_in(f"first\nsecond\nthird {text} and more\n"))


@pytest.mark.parametrize(
    "text",
    [
        "amqp://guest:guest@localhost/",
        "amqp://u:p%2F@h",
        "amqp://shop:***@rabbitmq/",
        'f"redis://shop:{password}@h"',
        "amqp://pythia:${RABBITMQ_PASSWORD:-local-only}@rabbitmq/",
        "redis://:$REDIS_PASSWORD@redis/0",
        "mail someone@example.org: https://example.org",
        'token = "another-plain-word-here"',
        "sha256:" + "0f" * 32,
    ],
)
def test_an_example_and_what_only_stands_for_a_secret_are_let_be(text):
    assert list(leaks.found_in(text)) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def test_what_git_tracks_or_would_is_looked_at_and_the_secret_is_not_shown(repository, monkeypatch, capsys):
    [secret] = PLANTED["a Slack token"]
    (repository / ".gitignore").write_text("ignored\n")
    for name in ("tracked", "new", "ignored", "deleted"):
        (repository / name).write_text(f"\n{secret}\n")
    (repository / "binary").write_bytes(b"\0" + secret.encode())
    (repository / "link").symlink_to("/nowhere")
    subprocess.run(["git", "-C", repository, "add", "tracked", "deleted", "link"], check=True)
    (repository / "deleted").unlink()
    monkeypatch.setattr(leaks, "ROOT", repository)
    assert leaks.main() == 1
    told = capsys.readouterr().out
    assert [line.split(": ")[0] for line in told.splitlines()] == ["new:2", "tracked:2"]
    assert secret not in told


def test_without_git_it_says_that_nothing_was_looked_at(tmp_path, capsys):
    assert list(leaks.problems(tmp_path)) == []
    assert "nothing was looked at" in capsys.readouterr().err
