"""The best texts of a search over words, also those that it dropped for others.

Of hypotheses that go on alike only the best lives, so that what is left in the end differs in its
last words alone. But which others were dropped for it, and how far behind they were, is kept in a
table; from it, texts are put together that differ anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from asr.prefix_tree import Array
from asr.vocabulary import EntryTables, Vocabulary

_JOINED_BITS = 17  # of the table
_ANY_FRAME = 1 << 40  # later than all
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
    vocabulary: Vocabulary, unknown: int, nbest: int,
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
        vocabulary: Whose entries these are.
        unknown: The language model's id of every word that it does not know.
        nbest: How many at most.
    """
    said, ends, costs = _best_sequences(
        scores, histories, parents, last, joined, vocabulary.entries, unknown, nbest
    )
    found: dict[str, float] = {}
    for entries, cost in zip(np.split(said, ends), costs.tolist(), strict=False):
        text = " ".join([vocabulary.texts[entry] for entry in entries.tolist()])
        found.setdefault(text, -cost)
    return [WordHypothesis(*pair) for pair in (found or {"": 0.0}).items()]


@njit(cache=True, nogil=True)
def _best_sequences(
    scores: Array, histories: Array, parents: Array, last: Array, joined: Joined,
    entries: EntryTables, unknown: int, nbest: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return entries one text after the other, where each text ends, and minus their scores.

    Arguments are those of `best_texts`; only an unknown word that is there as two entries may be
    in texts that are alike.
    """
    used = np.flatnonzero(joined.kept >= 0)
    used = used[np.argsort(joined.kept[used], kind="mergesort")]
    kept = joined.kept[used]
    # What is left to try: minus the score, and a number that also decides between equals. Under
    # that number: a sequence of words, the frame before which it may be exchanged, and the first
    # of the links that hold the entries behind it; link 0 is none.
    todo = [(-np.float64(score), number) for number, score in enumerate(scores)]
    heapify(todo)
    sequence = [np.int64(history) for history in histories]
    until = [np.int64(_ANY_FRAME)] * len(todo)
    following = [0] * len(todo)
    linked, link = [np.int32(0)], [0]
    said = [np.int32(0) for _ in range(0)]  # empty, but Numba knows of what
    ends, costs = np.empty(nbest, np.int64), np.empty(nbest)
    hashes = np.empty(nbest, np.uint64)
    count = 0
    for _ in range(nbest * _MOST_TRIES):
        if len(todo) == 0 or count == nbest:
            break
        cost, number = heappop(todo)
        history, before, first = sequence[number], until[number], following[number]
        while history:
            place = np.searchsorted(kept, history)
            while place < len(kept) and kept[place] == history:
                pair = used[place]
                if joined.frame[pair] < before:
                    heappush(todo, (cost + joined.behind[pair], len(sequence)))
                    sequence.append(np.int64(joined.dropped[pair]))
                    until.append(np.int64(joined.frame[pair]))
                    following.append(first)
                place += 1
            linked.append(last[history])
            link.append(first)
            first = len(link) - 1
            history = np.int64(parents[history])
        hashed = _hash_words(linked, link, first, entries, unknown)
        if (hashes[:count] == hashed).any():
            continue
        while first:
            said.append(linked[first])
            first = link[first]
        hashes[count], ends[count], costs[count] = hashed, len(said), cost
        count += 1
    return np.array(said), ends[:count], costs[:count]


@njit(cache=True, nogil=True)
def _hash_words(
    linked: list[Any], link: list[int], first: int, entries: EntryTables, unknown: int
) -> Any:
    """Return a hash of the words of linked entries: a phrase is as its words one by one."""
    hashed = np.uint64(0)
    while first:
        entry = linked[first]
        for place in range(entries.first_word[entry], entries.first_word[entry + 1]):
            word = entries.word[place]
            if word == unknown:
                word = -1 - entry
            hashed = (hashed ^ np.uint64(word)) * _MULTIPLIER
            hashed ^= hashed >> np.uint64(29)
        first = link[first]
    return hashed
