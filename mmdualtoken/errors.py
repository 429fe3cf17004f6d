"""Errors caused by user input, and how they reach the user."""

import sys
from contextlib import suppress


class InputError(Exception):
    """A config, data set, checkpoint or argument cannot be used.

    Its message is one paragraph: what was received, what is expected, what to do. The tools print
    it without a traceback and exit with status 2.
    """


class WrongValue(InputError, ValueError):
    """An argument of a model, or what it is given, has a value that is not allowed."""


class WrongType(InputError, TypeError):
    """An argument of a model is of a type that is not allowed."""


def print_stderr(text: str) -> None:
    """Print on stderr, which may be closed: the terminal's, or a `| tee` that Ctrl-C ended too."""
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)
