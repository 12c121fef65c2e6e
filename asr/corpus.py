"""Recordings with transcripts as people have them: text files beside them, or a table.

Nothing is assumed of names: a speaker is known where a table says so, or where the recordings lie
in several sub-folders, whose names then stand for speakers.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_FILE_COLUMNS = ("path", "file", "filename", "file_name", "audio", "audio_filepath", "wav")
_TEXT_COLUMNS = ("sentence", "text", "transcript", "transcription")
_SPEAKER_COLUMNS = ("client_id", "speaker", "speaker_id")
_SUBFOLDERS = ("", "clips", "wavs", "audio")  # where tables of well-known corpora mean their files


@dataclass(frozen=True)
class Recording:
    """A sound file and what is said in it."""

    path: str
    text: str
    speaker: str = ""


def find_recordings(folder: Path) -> Iterator[Recording | str]:
    """Yield the sound files of a folder that have a transcript ``x.txt`` beside ``x.wav``.

    A string names a sound file without one.

    Raises:
        ValueError: The folder is none, or has no sound file in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"{folder}: found no sound file, wanted {', '.join(SUFFIXES)}")
    groups = [path.relative_to(folder).parts[:-1][:1] for path in paths]
    several = len(set(groups)) > 1
    for path, group in zip(paths, groups, strict=True):
        transcript = path.with_suffix(".txt")
        try:
            text = transcript.read_text(encoding="utf-8-sig")
        except OSError as error:
            yield f"{path}: its transcript {transcript.name} cannot be read ({error.strerror})"
        except UnicodeDecodeError:
            yield f"{path}: its transcript {transcript.name} is not UTF-8"
        else:
            yield from _checked(path, text, "".join(group) if several else "")


def read_table(folder: Path, table: Path) -> Iterator[Recording | str]:
    """Yield the recordings of a table with columns of files and texts, found under a folder.

    Tabs, commas, semicolons or bars part the columns, whichever comes first. With a header
    (``path`` and ``sentence`` as in Common Voice, ``file``, ``text``, ``transcript`` …) columns
    go by name, without one the first is the file and the second the text. A string names a row
    that has no file.

    Raises:
        ValueError: The table cannot be read, or has not two columns.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = next((char for char in head if char in "\t|,;"), ",")
            # Tables with tabs and bars know no quotes: a quote in them belongs to the text.
            quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter in "\t|" else csv.QUOTE_MINIMAL
            rows = csv.reader(file, delimiter=delimiter, quoting=quoting)
            first = next(rows, [])
            columns = _columns(first)
            if columns is None and len(first) < 2:
                raise ValueError(f"{table}: found {len(first)} columns, wanted a file and a text")
            if columns is None:
                columns = {"file": 0, "text": 1}
                yield from _from_row(first, columns, folder, table, 1)
            for row in rows:
                if row:
                    yield from _from_row(row, columns, folder, table, rows.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{table}: cannot be read ({reason})") from error


def _columns(header: Sequence[str]) -> dict[str, int] | None:
    """Return the places of the columns if the row is a header."""
    names = [name.strip().lower() for name in header]
    found: dict[str, int] = {}
    wanted = {"file": _FILE_COLUMNS, "text": _TEXT_COLUMNS, "speaker": _SPEAKER_COLUMNS}
    for kind, choices in wanted.items():
        places = [names.index(choice) for choice in choices if choice in names]
        if places:
            found[kind] = places[0]
    return found if "file" in found and "text" in found else None


def _from_row(
    row: Sequence[str], columns: Mapping[str, int], folder: Path, table: Path, number: int
) -> Iterator[Recording | str]:
    if len(row) <= max(columns["file"], columns["text"]):
        yield f"{table}, line {number}: found {len(row)} columns, wanted a file and a text"
        return
    name = row[columns["file"]].strip()
    speaker = columns.get("speaker", len(row))
    for place in (folder / subfolder / name for subfolder in _SUBFOLDERS):
        for path in (place, *(Path(f"{place}{suffix}") for suffix in SUFFIXES)):
            if name and path.is_file():
                who = row[speaker].strip() if speaker < len(row) else ""
                yield from _checked(path, row[columns["text"]], who)
                return
    yield f"{table}, line {number}: found no file {name!r} under {folder}"


def _checked(path: Path, text: str, speaker: str) -> Iterator[Recording | str]:
    text = " ".join(text.split())
    if text:
        yield Recording(os.fspath(path), text, speaker)
    else:
        yield f"{path}: its transcript is empty"


def pick_groups(seconds: Mapping[str, float], fraction: float) -> set[str]:
    """Pick groups of recordings, such as speakers, that make up about a fraction of the time.

    The same groups are picked everywhere, in an order that looks like chance; at least one is,
    and at least one is left.

    Args:
        seconds: Of each of at least two groups.
        fraction: Of their sum.
    """
    wanted = fraction * math.fsum(seconds.values())
    picked: set[str] = set()
    found = 0.0
    for name in sorted(seconds, key=lambda name: hashlib.sha256(name.encode()).digest()):
        # One that would fill the part twice over is better left; the last one always is.
        if found < wanted and seconds[name] < 2 * wanted and len(picked) < len(seconds) - 1:
            picked.add(name)
            found += seconds[name]
    return picked or {min(seconds, key=lambda name: (seconds[name], name))}
