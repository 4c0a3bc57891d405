"""``pythia config``: the settings in force and where each was said; the schema of the file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pythia import config as configuration
from pythia.cli import settings
from pythia.cli.output import plain, print_json, print_table
from pythia.config import WorkerConfig
from pythia.config.problems import render

_EXAMPLES = """\
examples:
  pythia config show
  pythia config show --origin
  pythia config show --origin shop.worker:OrderWorker      with what the worker class declares
  pythia config schema > pythia.schema.json                for an editor that completes TOML
"""


def add_arguments(parser: ArgumentParser) -> None:
    """What can be said after ``pythia config``."""
    parser.epilog = _EXAMPLES
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    show = actions.add_parser("show", help="every key with its effective value, secrets masked", epilog=_EXAMPLES)
    show.add_argument("--origin", action="store_true", help="also where each value was said")
    schema = actions.add_parser("schema", help="the JSON Schema of the configuration file", epilog=_EXAMPLES)
    for action, run in ((show, _show), (schema, _schema)):
        action.set_defaults(action=run)
        action.add_argument("target", metavar="TARGET", nargs="?", help="a worker, for what its class declares")


def main(args: Namespace) -> int:
    """Show it; 78 when something in it cannot be used."""
    settings.apply(args)
    args.action(args)
    return 0


def _show(args: Namespace) -> None:
    config = _config(args)
    rows = configuration.effective(config)
    if args.json and args.origin:
        print_json({row.key: {"value": row.value, "origin": str(row.origin)} for row in rows})
    elif args.json:
        print_json(configuration.redacted(config))
    elif args.origin:
        print_table(args, ("KEY", "VALUE", "FROM"), [(row.key, render(row.value), row.origin) for row in rows])
    else:
        for row in rows:
            print(f"{row.key} = {plain(render(row.value))}")


def _schema(args: Namespace) -> None:
    print_json(configuration.json_schema(_config_class(args)))


def _config(args: Namespace) -> WorkerConfig:
    if args.target is None:
        return WorkerConfig()
    from pythia.cli.target import load_target, make

    return make(load_target(args.target)).config


def _config_class(args: Namespace) -> type[WorkerConfig]:
    if args.target is None:
        return WorkerConfig
    from pythia.cli.target import load_target

    return load_target(args.target).config_class
