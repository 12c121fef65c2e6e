"""Text files, plain or packed."""

from __future__ import annotations

import gzip
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

# What opening and reading them can raise.
READ_ERRORS = (OSError, UnicodeDecodeError, EOFError, lzma.LZMAError, zlib.error)


def open_text(path: str | Path) -> IO[str]:
    """Open a UTF-8 text file to be read; .xz and .gz are unpacked.

    Raises:
        OSError: It cannot be opened. What reading can raise is in `READ_ERRORS`.
    """
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(Path(path).suffix, open)
    file: IO[str] = opener(path, "rt", encoding="utf-8")
    return file
