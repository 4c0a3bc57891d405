"""How a command ends when it does not end well: one line, one exit code."""

from __future__ import annotations

USAGE = 64
INPUT = 65
BUG = 70
INTERRUPTED = 130
PIPE_CLOSED = 141


class CommandError(Exception):
    """A command that cannot go on; the text is the one line that the user sees."""

    def __init__(self, message: str, *, exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def did_you_mean(word: str, known: object) -> str:
    """``, did you mean run?``, or nothing where nothing is near."""
    import difflib  # only a mistake needs it

    near = difflib.get_close_matches(word, [str(one) for one in known], n=1)  # type: ignore[attr-defined]
    return f", did you mean {near[0]}?" if near else ""
