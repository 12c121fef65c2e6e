"""In which order an epoch meets its utterances, and which of them make a batch together.

All of it is arithmetic on arrays of durations, so that a million utterances are some megabytes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

_BLUR = 0.05  # of each duration: neighbours differ between epochs, padding stays small


@dataclass(frozen=True)
class Leg:
    """A part of an epoch that was trained on with one size of batches.

    Attributes:
        batch_seconds: Padded seconds that a batch of all processes together could hold.
        max_batch_size: Utterances that it could hold.
        batches: How many such batches were taken.
    """

    batch_seconds: float
    max_batch_size: int
    batches: int = 0


class BatchList(Sequence[list[int]]):
    """Batches of indices, kept as arrays.

    Args:
        indices: (N,) the utterances of all batches.
        starts: (M,) where in ``indices`` a batch begins.
        ends: (M,) and where it ends.
    """

    def __init__(self, indices: Indices, starts: Indices, ends: Indices) -> None:
        self.indices = indices
        self.starts = starts
        self.ends = ends

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, item: int) -> list[int]: ...
    @overload
    def __getitem__(self, item: slice) -> BatchList: ...
    def __getitem__(self, item: int | slice) -> list[int] | BatchList:
        if isinstance(item, slice):
            return BatchList(self.indices, self.starts[item], self.ends[item])
        batch: list[int] = self.indices[self.starts[item] : self.ends[item]].tolist()
        return batch


class DurationBatches:
    """Batches of utterances of similar duration, in an order set by seed and epoch alone.

    Since the order depends on nothing else, a run resumes in the middle of an epoch by knowing
    how many batches it has taken, and of which size they were.

    Args:
        durations: Seconds of each utterance.
        batch_seconds: Padded seconds that a batch may hold; a longer utterance goes alone.
        max_batch_size: Utterances that a batch may hold.
        seed: Source of the order.
        short_first: Epoch 0 goes from short to long utterances.
    """

    def __init__(
        self,
        durations: Sequence[float] | Seconds,
        batch_seconds: float,
        max_batch_size: int,
        seed: int,
        short_first: bool = False,
    ) -> None:
        self.durations: Seconds = np.asarray(durations, dtype=np.float64)
        self.batch_seconds = batch_seconds
        self.max_batch_size = max_batch_size
        self.seed = seed
        self.short_first = short_first

    def epoch(self, epoch: int, legs: Sequence[Leg] = ()) -> BatchList:
        """Return what an epoch still holds; every index that no leg took is in one batch.

        Args:
            epoch: Number of the pass over the data.
            legs: What of this epoch was taken before, in batches of other sizes.
        """
        chance = np.random.default_rng(_entropy(f"{self.seed}/{epoch}"))
        blurred = self.durations * (1 + _BLUR * (2 * chance.random(len(self.durations)) - 1))
        rest: Indices = np.argsort(blurred, kind="stable")  # from short to long
        shuffled = not (self.short_first and epoch == 0)
        for number, leg in enumerate(legs):
            chance = np.random.default_rng(_entropy(f"{self.seed}/{epoch}/{number}"))
            batches = self._form(rest, blurred, leg, chance if shuffled else None)
            taken = np.zeros(len(blurred), dtype=bool)
            for batch in batches[: leg.batches]:
                taken[batch] = True
            rest = rest[~taken[rest]]
        chance = np.random.default_rng(_entropy(f"{self.seed}/{epoch}/{len(legs)}"))
        today = Leg(self.batch_seconds, self.max_batch_size)
        return self._form(rest, blurred, today, chance if shuffled else None)

    def _form(
        self, indices: Indices, blurred: Seconds, leg: Leg, chance: np.random.Generator | None
    ) -> BatchList:
        """Cut sorted utterances into batches, as long as each may be, and shuffle these."""
        durations = self.durations[indices]
        # No utterance behind a place is shorter than this, which bounds the batch that begins.
        shortest = blurred[indices] / (1 + _BLUR)
        starts = [0] if len(indices) else []
        while starts and starts[-1] < len(indices):
            start = starts[-1]
            most = min(leg.max_batch_size, int(leg.batch_seconds / shortest[start]) + 1)
            longest = np.maximum.accumulate(durations[start : start + most])
            padded = longest * np.arange(1, len(longest) + 1)
            size = int(np.searchsorted(padded, leg.batch_seconds, side="right"))
            starts.append(start + max(1, size))
        edges = np.array(starts, dtype=np.int64)
        first, last = edges[:-1], edges[1:]
        if chance is not None:
            order = np.argsort(chance.random(len(first)), kind="stable")
            first, last = first[order], last[order]
        return BatchList(indices, first, last)


def _entropy(name: str) -> int:
    # Of a string, random.Random takes a checksum that is the same in every process and version.
    return random.Random(name).getrandbits(64)


def share(batch: Sequence[int], rank: int, world: int) -> list[int]:
    """Return one process's part of a batch that was built for all processes.

    Where there are fewer utterances than processes, one stands in that does not count: it is
    given as ``~index``, which is negative.
    """
    mine = list(batch[rank::world])
    return mine or [~batch[rank % len(batch)]]
