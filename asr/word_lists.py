"""The best texts of a search over words, also those that it dropped for others.

Of hypotheses that go on alike only the best lives, so that what is left in the end differs in its
last words alone. But which others were dropped for it, and how far behind they were, is kept in a
table; from it, texts are put together that differ anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from asr.prefix_tree import Array

_JOINED_BITS = 17  # of the table
_MOST_TRIES = 20  # for each text of a list: different ways lead to the same one
_PRIME = np.uint64(0x100000001B3)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of hashes (Knuth, 6.4): 2^64 over the golden ratio


@dataclass(frozen=True, slots=True)
class WordHypothesis:
    """A text, and the weighted score of its phones and the language model, in nats."""

    text: str
    score: float


class Joined(NamedTuple):
    """Pairs of sequences of words that went on alike; a table whose free places hold -1.

    Attributes:
        kept: The better sequence.
        dropped: The other one.
        behind: By how many nats it was worse, at least.
        frame: When that was first seen.
    """

    kept: Array
    dropped: Array
    behind: Array
    frame: Array


@njit(cache=True, nogil=True, inline="always")
def hash_pair(a: Any, b: Any, bits: int) -> Any:
    """Return a hash of two integers, below 2 to the power of `bits`."""
    mixed = ((np.uint64(a) * _PRIME) ^ np.uint64(b)) * _MULTIPLIER
    return np.int64(mixed >> np.uint64(64 - bits))


@njit(cache=True, nogil=True)
def new_joined(wanted: bool) -> Joined:
    """Return an empty table, with one useless place where none is wanted."""
    size = 1 << _JOINED_BITS if wanted else 1
    return Joined(
        np.full(size, -1, np.int32),
        np.zeros(size, np.int32),
        np.zeros(size, np.float32),
        np.zeros(size, np.int32),
    )


@njit(cache=True, nogil=True)
def join(joined: Joined, kept: int, dropped: int, behind: float, frame: int) -> None:
    """Remember a sequence of words that was dropped for another one."""
    slot = hash_pair(kept, dropped, _JOINED_BITS)
    for _ in range(64):
        if joined.kept[slot] < 0:
            joined.kept[slot], joined.dropped[slot] = kept, dropped
            joined.behind[slot], joined.frame[slot] = behind, frame
            return
        if joined.kept[slot] == kept and joined.dropped[slot] == dropped:
            joined.behind[slot] = min(joined.behind[slot], behind)
            return
        slot = (slot + 1) & (len(joined.kept) - 1)


def best_texts(
    scores: Array, histories: Array, parents: Array, last: Array, joined: Joined,
    texts: Sequence[str], nbest: int,
) -> list[WordHypothesis]:  # fmt: skip
    """Return the best texts, best first and each once, from what a search found.

    A text's beginning may be exchanged for one that was dropped for it, for what that costs; in
    that one only what was exchanged earlier.

    Args:
        scores: (N,) of its last hypotheses.
        histories: (N,) their sequences of words.
        parents: The sequence before each, 0 for none.
        last: The last entry of each.
        joined: Sequences that were dropped.
        texts: Of the entries.
        nbest: How many at most.
    """
    used = np.flatnonzero(joined.kept >= 0)
    used = used[joined.kept[used].argsort(kind="stable")]
    kept, dropped = joined.kept[used], joined.dropped[used].tolist()
    behind, frames = joined.behind[used].tolist(), joined.frame[used].tolist()
    # What is left to try: minus the score, a number that decides between equals, a sequence of
    # words, the frame before which it may be exchanged, and the entries behind it as
    # (entry, (entry, …)).
    todo: list[tuple[float, int, int, float, Any]] = [
        (-float(score), number, int(history), math.inf, ())
        for number, (score, history) in enumerate(zip(scores, histories, strict=True))
    ]
    heapify(todo)
    number = len(todo)
    found: dict[str, float] = {}
    for _ in range(nbest * _MOST_TRIES):
        if not todo or len(found) == nbest:
            break
        cost, _, history, until, following = heappop(todo)
        said = following
        while history:
            for place in range(*np.searchsorted(kept, (history, history + 1)).tolist()):
                if frames[place] < until:
                    number += 1
                    more = cost + behind[place]
                    heappush(todo, (more, number, dropped[place], frames[place], said))
            said = (int(last[history]), said)
            history = int(parents[history])
        words = []
        while said:
            words.append(texts[said[0]])
            said = said[1]
        found.setdefault(" ".join(words), -cost)
    return [WordHypothesis(*pair) for pair in (found or {"": 0.0}).items()]
