"""Whether a secret is about to be committed: ``python -m tests.architecture.leaks``, a stage of ``./dev lint``.

Looks at what git tracks, and at what it would if everything were added. A table of patterns finds what has a shape; a secret
that looks like any other word is found by nobody. What is found is named by its place and kind, and not shown.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.telling import tell

ROOT = Path(__file__).resolve().parents[2]

# What it is: how it looks, beginning with letters that are quickly searched for. A group `secret`, where there is one, is compared with the examples.
PATTERNS = {
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "an AWS access key": r"(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret key": r"(?i)aws_?secret_?(?:access_?)?key['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+=]{40}\b",
    "a GitHub token": r"(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22})",
    "a GitLab token": r"glpat-[\w-]{20}",
    "a Slack token": r"xox[abeoprs]-[A-Za-z0-9-]{10}",
    "a Stripe key": r"k_live_[A-Za-z0-9]{20}",
    "a Google API key": r"AIza[\w-]{35}\b",
    "a PyPI token": r"pypi-AgE[\w-]{40}",
    "a JSON web token": r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a password in a URL": r"://[^\s/:@'\"`<>]*:(?P<secret>[^\s/@'\"`<>]+)@",
    "a secret in the text": (
        r"(?:[Pp]assw(?:or)?d|PASSW(?:OR)?D|[Ss]ecret|SECRET|[Tt]oken|TOKEN|[Aa]pi_?[Kk]ey|API_?KEY)['\"]?\s*[=:]\s*"
        r"(?P<quote>['\"])(?P<secret>(?=[^'\"]*[0-9])(?=[^'\"]*[A-Za-z])[\w+/=.~-]{16,})(?P=quote)"
    ),
}

# Passwords of the documentation, of the tests, and of the services that run on one machine: nobody's.
EXAMPLES = frozenset(
    {
        *("guest", "password", "secret", "local-only", "s3cret", "s3cret-first", "hunter2", "geheim", "sesame"),
        *("canary", "canary-7f", "c4n4ry", "p%40ss"),
    }
)
_TOO_SHORT = 5  # `p`, `pw1`, `p%2F`: what stands for a password in a test of how URLs are read
_STANDS_FOR = re.compile(r"\{.*\}|^\$\w+$|^\*+$|^…$")  # filled in at run time, or masked

_LOOKS = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


def found_in(text: str) -> Iterator[tuple[int, str]]:
    """Each secret: its line, from 1, and what it is."""
    for kind, looks in _LOOKS.items():
        for match in looks.finditer(text):
            if not is_example(match.groupdict().get("secret")):
                yield text.count("\n", 0, match.start()) + 1, kind


def is_example(secret: str | None) -> bool:
    """Whether a text that stands where a secret would is none."""
    if secret is None:
        return False
    return secret in EXAMPLES or len(secret) < _TOO_SHORT or _STANDS_FOR.search(secret) is not None


def files(root: Path) -> list[Path]:
    """What git tracks, and what it would."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return _unlisted("no git here")
    # A checkout that another user made is read all the same: listing runs nothing of it.
    command = [git, "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if done.returncode:
        return _unlisted(done.stderr.decode(errors="replace").strip())
    return [root / name for name in sorted(set(done.stdout.decode().split("\0"))) if name]


def _unlisted(why: str) -> list[Path]:
    print(f"{why}: what is tracked cannot be told, and nothing was looked at", file=sys.stderr)
    return []


def problems(root: Path) -> Iterator[str]:
    """What was found, a line each."""
    for file in files(root):
        if (
            not file.is_file() or file.is_symlink()
        ):  # deleted and not yet committed; where a link leads is looked at itself
            continue
        raw = file.read_bytes()
        if b"\0" not in raw:
            for number, kind in found_in(raw.decode(errors="replace")):
                yield f"{file.relative_to(root)}:{number}: looks like {kind}; an example belongs in EXAMPLES of tests/architecture/leaks.py"


def main() -> int:
    """Say what was found; 1 if anything was."""
    return tell(problems(ROOT))


if __name__ == "__main__":
    sys.exit(main())
