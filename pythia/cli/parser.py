"""The grammar of the command line, over argparse: commands load when they are chosen, mistakes are told in one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module

from pythia.cli.failure import USAGE, CommandError, did_you_mean

TYPE_CHECKING = False  # as typing has it, which takes longer to import than a short command to run
if TYPE_CHECKING:
    from typing import Any, NoReturn

# name: (module of pythia.cli with add_arguments(parser) and main(args), other names, what it does)
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "run": ("run", (), "run a worker"),
    "publish": ("publish", (), "publish messages"),
    "queues": ("queues", (), "show what the queues hold"),
    "dead": ("dead", ("dlq",), "look at dead letters, replay, purge or export them"),
    "move": ("move", (), "move what waits in one broker to another"),
    "health": ("health", (), "ask a running worker how it is; exit 0 or 1"),
    "check": ("check", (), "check configuration, worker and broker without running"),
    "config": ("config", (), "show the configuration in force, what a reload would change, or the schema"),
    "reload": ("reload", (), "make a running worker read its configuration again"),
    "pause": ("pause", (), "make a running worker take nothing more"),
    "resume": ("resume", (), "make a paused worker take messages again"),
    "init": ("init", (), "make a new project"),
    "demo": ("demo", (), "watch real work: verify the files of this Python environment"),
    "verify": ("verify", (), "break things under a worker, and prove that nothing is lost"),
}

_EXAMPLES = """\
examples:
  pythia init shop && cd shop && pythia run shop.worker:ShopWorker
  pythia publish shop '{"name": "world"}'
  pythia queues
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. argparse makes one for every argument, and imports shutil and its four packers for its width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


@cache
def _columns() -> int:
    with contextlib.suppress(KeyError, ValueError):
        return int(os.environ["COLUMNS"]) or 80
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]  # None without a console
    return 80


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` with the options that hold everywhere. ``load`` fills it when it is chosen."""

    def __init__(self, *, load: Callable[[Parser], None] | None = None, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **keywords)
        self._load = load
        self.usage_exit_code = USAGE
        self.set_defaults(leaf=self)
        if load is None:
            _add_everywhere(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        load, self._load = self._load, None
        if load is not None:
            _add_everywhere(self)
            load(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help", exit_code=self.usage_exit_code)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Say which of the arguments nobody knows, options first."""
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        if word.startswith("-"):
            self.error(f"unknown option {word}{did_you_mean(word.split('=')[0], self._option_string_actions)}")
        self.error(f"unexpected argument {word!r}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        near = did_you_mean(str(value), action.choices)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - it has no public name
            self.error(f"there is no command {value!r}{near}")
        choices = ", ".join(str(choice) for choice in action.choices)
        self.error(f"{'/'.join(action.option_strings) or action.dest}: {value!r} is not one of {choices}{near}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What ``argv`` asks for; ``.run`` is the command's ``main``.

    Raises:
        CommandError: it cannot be understood. SystemExit: help or version was printed.
    """
    defaults = argparse.Namespace(
        broker_url=None, config=None, json=False, no_color=False, yes=False, verbose=False, most_exit_code=255
    )
    defaults.apart = None  # the argument of which some may stand behind options, which argparse takes for unknown
    parser = _whole()
    args: argparse.Namespace
    args, unknown = parser.parse_known_args(argv, defaults)
    if unknown and args.apart is not None and not any(word.startswith("-") for word in unknown):
        setattr(args, args.apart, [*getattr(args, args.apart), *unknown])
    elif unknown:
        args.leaf.refuse(unknown)
    if getattr(args, "run", None) is None:
        parser.error("say which command")
    return args


def _whole() -> Parser:
    parser = Parser(
        prog="pythia",
        description="Consume messages, and lose none.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog=parser.prog)
    for name, (module, aliases, summary) in COMMANDS.items():
        commands.add_parser(
            name, aliases=aliases, help=summary, description=f"{_sentence(summary)}.", load=_loader(module)
        )
    return parser


def _loader(module: str) -> Callable[[Parser], None]:
    def load(parser: Parser) -> None:
        command = import_module(f"pythia.cli.{module}")
        command.add_arguments(parser)
        parser.set_defaults(run=command.main)

    return load


def _add_everywhere(parser: Parser) -> None:
    """The options that stand before or after the command; what is not given leaves no trace, so neither place hides the other."""
    group = parser.add_argument_group("everywhere")

    def add(*names: str, **keywords: Any) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **keywords)

    add(
        "-b",
        "--broker-url",
        metavar="URL",
        help="the broker: sqlite:///relative.db, sqlite:////absolute.db, amqp://host/vhost, redis://host/0",
    )
    add("--config", metavar="FILE", help="the configuration file (TOML)")
    add("--json", action="store_true", help="print JSON, for scripts")
    add("--no-color", action="store_true", help="print without colours")
    add("-y", "--yes", action="store_true", help="do not ask, do it")
    add("-v", "--verbose", action="store_true", help="show the traceback of an error")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        import platform

        from pythia import __version__

        print(f"pythia {__version__} (Python {platform.python_version()})")
        parser.exit()
