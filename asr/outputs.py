"""Transcripts in files: their names, whole or not at all, and which are finished already.

Beside them lies `asr-finished.jsonl`: a line for each recording that is done, with its size, its
date and what it was transcribed with. By it, `--resume` knows what need not be done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from asr.inputs import STDIN, Input, InputError
from asr.subtitles import format_transcript
from asr.transcript import Transcript

JOURNAL = "asr-finished.jsonl"


class OutputFolder:
    """A folder for the transcripts of some inputs.

    Args:
        folder: Made if absent.
        inputs: All that go there.
        formats: A file for each of them.
        settings: What a transcript depends on, besides its recording.

    Raises:
        OSError: The folder cannot be made.
        InputError: A transcript of another recording, from an earlier run, has the same place.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        inputs: Sequence[Input],
        formats: Sequence[str],
        settings: Mapping[str, Any],
    ) -> None:
        self._folder = Path(folder)
        self._stems = dict(zip(inputs, output_stems(inputs), strict=True))
        self._formats = formats
        text = json.dumps({**settings, "formats": sorted(formats)}, sort_keys=True, default=str)
        self._settings = hashlib.sha256(text.encode()).hexdigest()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._finished = self._read_journal()
        for item, stem in self._stems.items():
            before = self._finished.get(str(stem), {}).get("source")
            others = before not in (None, os.path.abspath(item.path)) and os.path.exists(before)
            if others and any(path.exists() for path in self.paths(item)):
                raise InputError(
                    f"{self._folder / stem}: holds what was said in {before}, not in {item.name}; "
                    "wanted another --output-dir"
                )

    def paths(self, item: Input) -> list[Path]:
        """Return the files of an input, one for each format."""
        return [self._folder / f"{self._stems[item]}.{extension}" for extension in self._formats]

    def is_finished(self, item: Input) -> bool:
        """Tell whether a recording has been done with these settings and has not changed since."""
        entry = self._finished.get(str(self._stems[item]))
        return (
            entry is not None
            and entry == self._entry(item)
            and all(path.is_file() for path in self.paths(item))
        )

    def write(self, item: Input, transcript: Transcript) -> None:
        """Write a transcript in every format.

        Raises:
            OSError: A file cannot be written; what was there before is still there.
        """
        entry = self._entry(item)
        for extension, path in zip(self._formats, self.paths(item), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
            try:
                text = format_transcript(transcript, extension, item.source, item.channel)
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        if entry is not None:
            with (self._folder / JOURNAL).open("a+b") as journal:
                journal.seek(max(0, journal.tell() - 1))
                torn = journal.read(1) not in (b"", b"\n")  # stopped while it wrote a line
                journal.write(b"\n" * torn + json.dumps(entry).encode() + b"\n")

    def _entry(self, item: Input) -> dict[str, Any] | None:
        """Describe a recording as it is now; None where that says nothing about its content."""
        try:
            status = os.stat(item.path)
        except OSError:
            return None
        if item.path == STDIN or not os.path.isfile(item.path):
            return None
        return {
            "output": str(self._stems[item]),
            "source": os.path.abspath(item.path),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "settings": self._settings,
        }

    def _read_journal(self) -> dict[str, dict[str, Any]]:
        finished = {}
        try:
            lines = (self._folder / JOURNAL).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return {}
        for line in lines:
            try:
                entry = json.loads(line)
                finished[entry["output"]] = entry
            except (ValueError, TypeError, KeyError):
                continue  # the program was stopped while it wrote this line
        return finished


def output_stems(inputs: Sequence[Input]) -> list[PurePath]:
    """Return where the transcripts of inputs go, without an extension; no two share a place.

    The name of the recording without its suffix, below the folders inside the folder that was
    named. Where that is not enough, with the suffix (`talk.wav`, `talk.mp3`); where that is not
    enough, below the folders that the recordings do not have in common.
    """
    paths = [os.path.abspath(item.path) for item in inputs]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    candidates = [
        (item.place.with_suffix(""), item.place, PurePath(os.path.relpath(path, common)))
        for item, path in zip(inputs, paths, strict=True)
    ]
    owners: dict[PurePath, set[str]] = defaultdict(set)
    for path, names in zip(paths, candidates, strict=True):
        for name in names:
            owners[name].add(path)
    stems = []
    for item, path, names in zip(inputs, paths, candidates, strict=True):
        unique = [name for name in names if len(owners[name]) == 1]
        # A file may be called what another one's transcript would be called.
        marked = f"{names[-1]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        stem = unique[0] if unique else PurePath(marked)
        stems.append(stem if item.channel is None else PurePath(f"{stem}.channel{item.channel}"))
    return stems
