"""Writes docs/configuration.md and config/pythia.toml from the schema: ``python -m pythia.config.document [--check]``.

What is written by hand about configuration is in ``opening.md`` beside this module; every table comes from the keys.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from textwrap import wrap

from pythia.config.keys import Key, keys_of
from pythia.config.problems import displayable, render
from pythia.config.schema import WorkerConfig

_WIDTH = 118
_FILE_OPENING = """\
# Every setting of a Pythia worker, at its default. Written by `python -m pythia.config.document`; what it means at
# length is in docs/configuration.md. In [brackets]: what it takes to change it while the worker runs: H nothing (hot),
# Q the consumers begin anew, C the connection begins anew, R a restart.
#
# A key behind `#` is not set. For some that is because the default is computed (the value is then an example), for
# others because setting it says more than its value: a key set here wins over what a worker's class declares, and a
# port that is set must be free.
"""
_WORKERS_EXAMPLE = """\
# Several workers in one service: a table each, with its target and any key of this file.
#[workers.mail]
#target = "shop.worker:MailWorker"
#concurrency = 5
"""


def main(argv: list[str] | None = None) -> int:
    """Write the files, or with ``--check`` only compare: 1 when one of them is stale."""
    parser = argparse.ArgumentParser(prog="python -m pythia.config.document", description="Write what the schema says.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is stale")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's directory (default: the current one)")
    options = parser.parse_args(argv)
    targets = {options.root / "docs/configuration.md": page(), options.root / "config/pythia.toml": example_file()}
    stale = [path for path, text in targets.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(targets[path], "utf-8")
        sys.stdout.write(f"{path}: {'stale: run python -m pythia.config.document' if options.check else 'written'}\n")
    return 1 if options.check and stale else 0


def page() -> str:
    """The text of docs/configuration.md."""
    opening = files("pythia.config").joinpath("opening.md").read_text("utf-8")
    return opening + "".join(_tables())


def example_file() -> str:
    """The text of config/pythia.toml: every key, the file as a whole saying nothing but the defaults."""
    lines = [_FILE_OPENING]
    for section, keys in _by_section().items():
        lines.append(f"\n[{section}]\n" if section else "")
        lines.extend(_file_lines(key) for key in keys)
    return "".join(lines) + "\n" + _WORKERS_EXAMPLE


def _by_section() -> dict[str, list[Key]]:
    """The keys of each section; those outside any come first, as TOML wants it."""
    sections: dict[str, list[Key]] = {"": []}
    for key in keys_of(WorkerConfig).values():
        sections.setdefault(key.section, []).append(key)
    return sections


def _file_lines(key: Key) -> str:
    if key.name == "workers":
        return ""
    default = _default(key)
    text = f"{key.meaning.replace('`', '')} [{key.reload}]"
    text += f" (default: {key.default_in_words.replace('`', '')})" if key.default_in_words and default is None else ""
    comment = "".join(f"# {line}\n" for line in wrap(text, _WIDTH - 2))
    sign = "#" if default is None or key.presence_matters else ""
    return f"\n{comment}{sign}{key.name.rpartition('.')[2]} = {_example(key) if default is None else default}\n"


def _default(key: Key) -> str | None:
    """The default as it stands in a file; None where it is computed."""
    if key.default is None or (key.default_in_words and key.presence_matters):
        return None
    return render(displayable(key, key.default))


def _example(key: Key) -> str:
    return render((key.field.examples or [""])[0])


def _tables() -> Iterator[str]:
    for section, keys in _by_section().items():
        yield f"\n### {f'`[{section}]`' if section else 'Outside any section'}\n\n"
        yield "| key | default | | environment | meaning |\n|---|---|---|---|---|\n"
        yield from (_row(key) for key in keys)


def _row(key: Key) -> str:
    default = key.default_in_words or f"`{_default(key) or 'none'}`"
    secret = " S" if key.secret else ""
    cells = (f"`{key.name}`{secret}", default, key.reload.value, f"`{key.env}`", key.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.exit(main())
