"""The one exception that a user is meant to read.

Every message is one line: what is wrong, with which file or value, and what to do about it.
The CLI prints it without a traceback and exits with status 1.
"""


class VqtrtError(Exception):
    """A mistake in the input, the settings or the environment, and how to mend it."""


class ImageError(VqtrtError):
    """One image that cannot be read; `--on-error skip` passes over it."""
