"""Paths and values of strangers, as text for a one-line message."""


def printable(path: object) -> str:
    """A path for a one-line message: what is not printable or not UTF-8 is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def brief(value: object) -> str:
    """A value on one line, cut to 60 characters; what is not ASCII is escaped."""
    text = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."
