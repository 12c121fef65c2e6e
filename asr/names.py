"""Names of files as they are shown: in one line, on any terminal, whatever bytes are in them."""

from __future__ import annotations

import os


def printable(name: str | os.PathLike[str]) -> str:
    """Return a name with what is not UTF-8, and what would move the cursor, as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
