"""``pythia init``: a project that runs, with a worker, its tests, its configuration and its image."""

from __future__ import annotations

import keyword
import re
import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from string import Template

from pythia import __version__
from pythia.cli.failure import CommandError
from pythia.cli.output import print_json, say
from pythia.cli.project import FILES

_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")

_EXAMPLES = """\
examples:
  pythia init shop
  cd shop && pythia run shop.worker:ShopWorker
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia init``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("name", metavar="NAME", help="of the project, its directory and its package: shop, order-desk")


def main(args: Namespace) -> int:
    """Make the project in a new directory; nothing that exists is touched."""
    words = _words(args.name)
    root = Path(args.name)
    files = {Template(path).substitute(words): Template(text).substitute(words) for path, text in FILES.items()}
    _write(root, files)
    if args.json:
        print_json({"project": str(root.resolve()), "files": sorted(files), "target": words["target"]})
        return 0
    say(f"made {args.name}/ with {len(files)} files; next:\n")
    for command in _next(words):
        say(f"  {command}" if command else "")
    return 0


def _words(name: str) -> dict[str, str]:
    """What stands in the templates.

    Raises:
        CommandError: it cannot be the name of a project.
    """
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise CommandError(f"{name!r} cannot name a Python package: lower-case letters, digits, - and _ (order-desk)")
    if Path(name).exists():
        raise CommandError(f"{name} exists already here; nothing was touched")
    if package in sys.stdlib_module_names or package in ("pythia", "tests") or find_spec(package):
        raise CommandError(f"{name!r} would hide the module {package} that is installed here; choose another name")
    worker = "".join(part.capitalize() for part in re.split("[_-]", name)) + "Worker"
    words = {"name": name, "package": package, "worker": worker, "target": f"{package}.worker:{worker}"}
    return words | {"version": __version__}


def _write(root: Path, files: dict[str, str]) -> None:
    try:
        root.mkdir()
        for path, text in files.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    except OSError as error:
        raise CommandError(f"cannot write {error.filename or root}: {error.strerror or error}", exit_code=74) from error


def _next(words: dict[str, str]) -> list[str]:
    """The next commands, as they work here."""
    test = "pytest" if find_spec("pytest") else "unittest discover -s tests"
    return [
        f"cd {words['name']}",
        f"{_pythia()} run {words['target']}",
        "",
        f"# in another terminal, in {words['name']}/:",
        f'{_pythia()} publish {words["name"]} \'{{"name": "world"}}\'',
        f"{_pythia()} queues",
        f"{_python()} -m {test}",
    ]


def _pythia() -> str:
    """``pythia``, if that is this very installation; else the way that needs no PATH."""
    found = shutil.which("pythia")
    here = Path(sys.executable).parent
    return "pythia" if found and Path(found).parent == here else f"{_python()} -m pythia"


def _python() -> str:
    name = Path(sys.executable).name
    return name if shutil.which(name) == sys.executable else shlex.quote(sys.executable)
