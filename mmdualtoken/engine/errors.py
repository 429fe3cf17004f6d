"""Errors that a user can mend."""


class InputError(Exception):
    """A config, data set, checkpoint or argument cannot be used.

    Its message is one paragraph: what was received, what is expected, what to do. The tools print
    it without a traceback and exit with status 2.
    """
