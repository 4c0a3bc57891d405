"""The command line: parse, call, print. ``pythia COMMAND --help`` tells about each command.

Only the chosen command's module is imported, and nothing here imports more than the standard library: ``pythia health`` runs
every few seconds in a container. What a command raises ends here, as one line on stderr and an exit code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from pythia.cli.failure import BUG, INTERRUPTED, PIPE_CLOSED, CommandError
from pythia.cli.parser import parse

_URLS = ("broker_url", "source_url", "destination_url")  # of the parsed arguments: what may hold a password


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (API: the table of exit codes)."""
    _printable_whatever_the_locale()
    command = _Command()
    try:
        code = command.run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _reader_gone()
    return min(code, command.most_exit_code)


class _Command:
    """One command on its way: what is known of it when it fails."""

    verbose = False
    most_exit_code = 255

    def run(self, argv: Sequence[str]) -> int:
        """The exit code. Errors are told here; only an interruption and a closed pipe go on."""
        try:
            args = parse(argv)
            self.verbose, self.most_exit_code = args.verbose, args.most_exit_code
            _warn_of_visible_password([getattr(args, name, None) for name in _URLS])
            code: int = args.run(args)
            sys.stdout.flush()
        except SystemExit as over:  # argparse printed the help or the version
            return over.code if isinstance(over.code, int) else 0
        except CommandError as error:
            return self._fail(error, str(error), error.exit_code)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - the top of the process
            return self._fail_otherwise(error)
        return code

    def _fail_otherwise(self, error: Exception) -> int:
        from pythia.errors import PythiaError

        if isinstance(error, PythiaError):
            return self._fail(error, str(error), error.exit_code)
        hint = "" if self.verbose else " (with -v: the traceback)"
        return self._fail(error, f"a bug of Pythia's: {type(error).__name__}: {error}{hint}", BUG)

    def _fail(self, error: Exception, text: str, code: int) -> int:
        from pythia.cli.output import line, plain

        if self.verbose:
            import traceback

            print(plain("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        with contextlib.suppress(BrokenPipeError):
            print(f"pythia: {line(text) or type(error).__name__}", file=sys.stderr)
        return code


def _reader_gone() -> int:
    """``pythia queues | head``: nothing to say, and the flush at exit must be as quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _warn_of_visible_password(urls: Sequence[str | None]) -> None:
    """An argument can be read by every user of the machine."""
    suspects = [url for url in urls if url is not None and "@" in url]
    if not suspects:
        return
    from pythia.config.urls import redact_url

    if any(redact_url(url) != url for url in suspects):
        text = (
            "a password in an argument is visible to every user of this machine; PYTHIA_BROKER__URL_FILE=FILE hides it"
        )
        print(f"pythia: warning: {text}", file=sys.stderr)


def _printable_whatever_the_locale() -> None:
    """An id or an error text that the terminal's encoding lacks is shown escaped; it stops nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper unless replaced
