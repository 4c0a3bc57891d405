"""``pythia config``: the settings in force and where each was said; what a reload would change; the schema of the file."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from pythia import config as configuration
from pythia import runtime_file
from pythia.cli import admin, reload, settings
from pythia.cli.failure import CommandError
from pythia.cli.output import plain, print_json, print_table, say
from pythia.config import WorkerConfig
from pythia.config.problems import render

_EXAMPLES = """\
examples:
  pythia config show
  pythia config show --origin
  pythia config show --origin shop.worker:OrderWorker      with what the worker class declares
  pythia config diff                                       what pythia reload would change in the one worker that runs here
  pythia config diff 4711                                  in the worker with this process id, or at this URL
  pythia config diff --defaults                            what is not at its default, here
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
    diff = actions.add_parser("diff", help="what a reload would change; 1 when it would be refused", epilog=_EXAMPLES)
    diff.set_defaults(action=_diff)
    diff.add_argument(
        "worker",
        metavar="PID|URL",
        nargs="?",
        help="which; default: the one that runs on this machine, else the defaults",
    )
    diff.add_argument("--defaults", action="store_true", help="against the defaults, and no worker")


def main(args: Namespace) -> int:
    """Show it; 78 when something in it cannot be used."""
    settings.apply(args)
    code: int = args.action(args)
    return code


def _diff(args: Namespace) -> int:
    """The worker reads its own sources, with its own flags and environment: it alone knows what a reload would change."""
    if args.defaults or (args.worker is None and not runtime_file.running()):
        changes = [change.to_json() for change in configuration.departures(settings.SharedConfig())]
        return _told(args, "the defaults", {"changes": changes})
    url, status, answer = admin.post(args, "/reload?plan=1")
    if status not in (200, 409) or not isinstance(answer, dict) or "changes" not in answer:
        raise CommandError(f"{url} did not tell: {admin.why(status, answer)}", exit_code=1)
    return _told(args, url, answer)


def _told(args: Namespace, against: str, answer: dict[str, Any]) -> int:
    cause = answer.get("cause")
    if args.json:
        print_json({"against": against, **answer})
    else:
        reload.tell(args, answer)
        if cause is not None:
            say(f"{against}: a reload would be refused: {cause}")
        elif not answer["changes"]:
            say(f"{against}: no difference")
    return 0 if cause is None else 1


def _show(args: Namespace) -> int:
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
    return 0


def _schema(args: Namespace) -> int:
    print_json(configuration.json_schema(_config_class(args)))
    return 0


def _config(args: Namespace) -> WorkerConfig:
    if args.target is None:
        return WorkerConfig()
    from pythia.target import load_target, make

    return make(load_target(args.target)).config


def _config_class(args: Namespace) -> type[WorkerConfig]:
    if args.target is None:
        return WorkerConfig
    from pythia.target import load_target

    return load_target(args.target).config_class
