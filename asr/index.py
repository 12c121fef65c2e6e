"""Manifests of any size: their lines are checked once, and read again when they are wanted."""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from asr.config import DataConfig
from asr.manifest import (
    ManifestError,
    Utterance,
    parse_object,
    prepare_text,
    reason_to_skip,
    to_utterance,
)

_BOM = b"\xef\xbb\xbf"


class ManifestIndex(Sequence[Utterance]):
    """The usable utterances of manifests, some 32 bytes of memory each.

    The manifests stay open, so that one that is replaced meanwhile does no harm. Arrays are not
    copied when loader processes are forked, as a list of a million objects would be bit by bit.

    Args:
        manifests: Paths of JSON-lines manifests.
        config: Alphabet, normalisation and limits of duration; None keeps every line as it is.

    Attributes:
        durations: (N,) seconds.
        left_out: For each reason how many lines were left out.

    Raises:
        ManifestError: A manifest cannot be read, or a line is wrong; it begins with file and line.
    """

    def __init__(self, manifests: Sequence[str], config: DataConfig | None) -> None:
        self.manifests = tuple(manifests)
        self.config = config
        self.left_out: dict[str, int] = {}
        self._folders = [str(Path(manifest).parent) for manifest in manifests]
        self._keep_files()
        starts, sizes, durations = array("q"), array("i"), array("d")
        ends = []
        for number in range(len(self.manifests)):
            self._scan(number, starts, sizes, durations)
            ends.append(len(starts))
        self._starts = np.array(starts, dtype=np.int64)
        self._sizes = np.array(sizes, dtype=np.int32)
        self._ends = np.array(ends, dtype=np.int64)
        self.durations = np.array(durations, dtype=np.float64)

    def _scan(
        self, number: int, starts: array[int], sizes: array[int], durations: array[float]
    ) -> None:
        name, start = self.manifests[number], 0
        try:
            for line_number, line in enumerate(self._open(number), start=1):
                if line.removeprefix(_BOM).strip():
                    utterance = self._parse(number, line, f"{name}, line {line_number}")
                    reason = self.config and reason_to_skip(utterance, self.config)
                    if reason:
                        self.left_out[reason] = self.left_out.get(reason, 0) + 1
                    else:
                        starts.append(start)
                        sizes.append(len(line))
                        durations.append(utterance.duration)
                start += len(line)
        except OSError as error:
            raise ManifestError(f"{name}: cannot be read ({error.strerror})") from error

    def _keep_files(self) -> None:
        self._files: dict[int, BinaryIO] = {}
        weakref.finalize(self, _close_all, self._files)

    def _open(self, number: int) -> BinaryIO:
        if number not in self._files:
            self._files[number] = open(self.manifests[number], "rb")  # noqa: SIM115
        return self._files[number]

    def _parse(self, number: int, line: bytes, where: str) -> Utterance:
        folder = self._folders[number]
        utterance = to_utterance(parse_object(line.removeprefix(_BOM), where), folder, where)
        return prepare_text(utterance, self.config) if self.config else utterance

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, item: int) -> Utterance: ...
    @overload
    def __getitem__(self, item: slice) -> list[Utterance]: ...
    def __getitem__(self, item: int | slice) -> Utterance | list[Utterance]:
        """Return an utterance, with its text as training sees it.

        Raises:
            ManifestError: The file was changed where it lies since it was checked.
        """
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        index = range(len(self))[item]
        number = int(np.searchsorted(self._ends, index, side="right"))
        start, size = int(self._starts[index]), int(self._sizes[index])
        # Of one call: forked loader processes share the file and its position.
        line = os.pread(self._open(number).fileno(), size, start)
        return self._parse(number, line, f"{self.manifests[number]}, byte {start}")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_files"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep_files()


def _close_all(files: dict[int, BinaryIO]) -> None:
    for file in files.values():
        file.close()
