"""Letter to sound: how a word that no dictionary lists is probably said.

Every letter says a *chunk* of no, one or two phones, as in ``ph-oe-n-i-x`` = ``f · · i · n ɪ k+s``.
Which letter says what in a dictionary is found by alignment: dynamic programming under costs that
are estimated from the alignment before (Viterbi training). What a letter says in a new word is
decided by the longest window of letters around it that was seen to decide it (a trie of contexts
with defaults, as in IGTree: Daelemans, van den Bosch & Weijters, 1997). Only windows that change
the decision of a shorter one are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LETTERS = "'abcdefghijklmnopqrstuvwxyz"

Array = NDArray[Any]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

# Places around a letter in the order in which they widen its window: what follows tells most.
_WINDOW = (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6)
_MARGIN = 6  # the farthest of them
_BITS = 5  # a packed letter; 0 lies beyond the word
_SILENT = 0.1  # first guess at how often a letter is silent, or says two phones
_MOST_CHUNKS = 255
_ALIGNED_WORDS = 10_000  # are enough to estimate what letters say
_ITERATIONS = 6
_BLOCK = 8192  # words aligned at once: bounds the memory
_OTHER = 31  # the id of what is no letter
_IDS = np.full(256, _OTHER, np.uint8)
_IDS[list(LETTERS.encode())] = np.arange(1, len(LETTERS) + 1)


@dataclass(frozen=True)
class LetterToSound:
    """Chunks of phones by windows of letters.

    Attributes:
        chunks: (C, 2) phones that a letter can say, 0 for none.
        windows: (W,) sorted; a one and then the packed letters of a window, its own letter first.
        decisions: (W,) the chunk of each window.
    """

    chunks: Bytes
    windows: Ints
    decisions: Bytes

    def pronounce(self, words: Sequence[str]) -> list[list[int]]:
        """Return the phones of each word; characters that are not in `LETTERS` are silent.

        A letter that the dictionary never had is silent too.
        """
        letters, _ = _pad([_known_letters(word) for word in words])
        said: list[list[int]] = [[] for _ in words]
        if letters.size and len(self.windows):
            rows, columns = np.nonzero(letters)
            codes = _windows(letters, rows, columns)  # (X, levels)
            place = np.minimum(self.windows.searchsorted(codes), len(self.windows) - 1)
            found = self.windows[place] == codes
            longest = found.shape[1] - 1 - found[:, ::-1].argmax(1)
            decided = self.decisions[place[np.arange(len(rows)), longest]]
            phones = self.chunks[decided] * found.any(1)[:, None]  # (X, 2)
            for row, (first, second) in zip(rows.tolist(), phones.tolist(), strict=True):
                said[row] += [phone for phone in (first, second) if phone]
        return said

    @classmethod
    def fit(cls, words: Sequence[str], pronunciations: Sequence[Sequence[int]]) -> LetterToSound:
        """Learn from a dictionary.

        Args:
            words: Of `LETTERS`; none twice.
            pronunciations: Phones from 1 to 255 of each. Words with more than two phones a letter,
                such as abbreviations that are spelled out, teach nothing.
        """
        usable = [
            (_known_letters(word), bytes(phones))
            for word, phones in zip(words, pronunciations, strict=True)
            if word and len(phones) <= 2 * len(word)
        ]
        if not usable:
            return cls(np.zeros((0, 2), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.uint8))
        pairs = _Pairs.of(usable)
        sample = pairs.take(slice(None, None, -(-len(usable) // _ALIGNED_WORDS)))
        costs = sample.first_costs()
        for _ in range(_ITERATIONS):
            costs = sample.estimate(sample.align(costs))
        said = pairs.align(costs)  # (N, I) packed chunks
        kept = said[pairs.letters > 0]
        names, counts = np.unique(kept, return_counts=True)
        names = np.sort(names[np.argsort(-counts, kind="stable")[:_MOST_CHUNKS]])
        good = (np.isin(said, names) | (pairs.letters == 0)).all(1)
        letters, said = pairs.letters[good], said[good]
        rows, columns = np.nonzero(letters)
        codes = _windows(letters, rows, columns)
        windows, decisions = _grow(codes, names.searchsorted(said[rows, columns]))
        chunks = np.stack(np.divmod(names, pairs.num_phones), 1).astype(np.uint8)
        return cls(chunks, windows, decisions)


@dataclass(frozen=True)
class _Pairs:
    """Words beside their pronunciations.

    Attributes:
        letters: (N, I) from 1 on, 0 behind the end.
        letter_lengths: (N,).
        phones: (N, J) from 1 on, 0 behind the end.
        phone_lengths: (N,).
        num_phones: One more than the highest phone.
    """

    letters: Bytes
    letter_lengths: Ints
    phones: Bytes
    phone_lengths: Ints
    num_phones: int

    @classmethod
    def of(cls, pairs: Sequence[tuple[bytes, bytes]]) -> _Pairs:
        letters, letter_lengths = _pad([pair[0] for pair in pairs])
        phones, phone_lengths = _pad([pair[1] for pair in pairs])
        num_phones = int(phones.max(initial=0)) + 1
        return cls(letters, letter_lengths, phones, phone_lengths, num_phones)

    def take(self, rows: slice) -> _Pairs:
        """Return some of the words."""
        letter_lengths, phone_lengths = self.letter_lengths[rows], self.phone_lengths[rows]
        return _Pairs(
            self.letters[rows, : letter_lengths.max()],
            letter_lengths,
            self.phones[rows, : phone_lengths.max()],
            phone_lengths,
            self.num_phones,
        )

    def first_costs(self) -> Array:
        """Return costs (A, P, P) of chunks: a letter says what often stands near its place."""
        counts = np.zeros((len(LETTERS) + 1, self.num_phones))
        share = self.phone_lengths / self.letter_lengths
        for column, letter in enumerate(self.letters.T):
            for place, phone in enumerate(self.phones.T):
                both = (letter > 0) & (phone > 0)
                near = np.exp(-np.abs((column + 0.5) * share - place - 0.5))
                np.add.at(counts, (letter[both], phone[both]), near[both])
        counts = counts + 1e-3
        counts /= counts.sum(0)  # frequent phones stand near to all
        shares = counts[:, 1:] / counts[:, 1:].sum(1, keepdims=True)
        chunks = np.empty((len(counts), self.num_phones, self.num_phones))
        chunks[:, 0] = _SILENT
        chunks[:, 1:, 0] = shares
        chunks[:, 1:, 1:] = _SILENT * shares[:, :, None] * shares[:, None]
        costs: Array = -np.log(chunks)
        return costs

    def estimate(self, said: Ints) -> Array:
        """Return costs (A, P, P) of chunks from aligned ones (N, I), nothing impossible."""
        letters = self.letters[self.letters > 0].astype(np.int64)
        size = self.num_phones**2
        counts = np.bincount(
            letters * size + said[self.letters > 0], minlength=(len(LETTERS) + 1) * size
        ).reshape(-1, self.num_phones, self.num_phones)
        smooth = counts + 1e-3
        costs: Array = -np.log(smooth / smooth.sum((1, 2), keepdims=True))
        return costs

    def align(self, costs: Array) -> Ints:
        """Return the chunk (N, I) of each letter that costs least, packed as P times p1 plus p2."""
        blocks = []
        for first in range(0, len(self.letters), _BLOCK):
            said = self.take(slice(first, first + _BLOCK))._align(costs)
            blocks.append(np.pad(said, ((0, 0), (0, self.letters.shape[1] - said.shape[1]))))
        return np.concatenate(blocks)

    def _align(self, costs: Array) -> Ints:
        total, width = len(self.letters), self.phones.shape[1] + 1
        last = np.zeros((total, width), np.int64)  # the phone before each place
        last[:, 1:] = self.phones
        before = np.zeros_like(last)  # and the one before it
        before[:, 2:] = self.phones[:, :-1]
        best = np.full((total, width), np.inf)
        best[:, 0] = 0
        taken = np.zeros((self.letters.shape[1], total, width), np.uint8)
        for column, letter in enumerate(self.letters.T):
            ways = np.full((3, total, width), np.inf)
            ways[0] = best + costs[letter, 0, 0][:, None]
            ways[1, :, 1:] = best[:, :-1] + costs[letter[:, None], last[:, 1:], 0]
            ways[2, :, 2:] = best[:, :-2] + costs[letter[:, None], before[:, 2:], last[:, 2:]]
            taken[column] = ways.argmin(0)
            best = np.where((letter > 0)[:, None], ways.min(0), best)
        said = np.zeros(self.letters.shape, np.int64)
        rows, place = np.arange(total), self.phone_lengths.copy()
        for column in range(self.letters.shape[1] - 1, -1, -1):
            count = taken[column, rows, place] * (self.letters[:, column] > 0)
            one, two = last[rows, place], before[rows, place]
            packed = np.where(count == 2, two * self.num_phones + one, one * self.num_phones)
            said[:, column] = packed * (count > 0)
            place -= count
        return said


def _grow(codes: Ints, chunks: Ints) -> tuple[Ints, Bytes]:
    """Return the windows (W,), sorted, that change a decision, and their decisions (W,).

    Args:
        codes: (X, levels) windows of every letter, the shortest first.
        chunks: (X,) what each says.
    """
    num_chunks = int(chunks.max(initial=0)) + 1
    decided = np.full(len(chunks), -1)
    windows, decisions = [], []
    for level in codes.T:
        names, index = np.unique(level, return_inverse=True)
        keys, counts = np.unique(index * num_chunks + chunks, return_counts=True)
        owner, chunk = np.divmod(keys, num_chunks)
        order = np.lexsort((chunk, -counts, owner))
        first = order[np.unique(owner[order], return_index=True)[1]]  # of each, the most frequent
        right = np.bincount(index, decided == chunks, len(names))  # by shorter windows
        changes = counts[first] > right
        decided = np.where(changes[index], chunk[first][index], decided)
        windows.append(names[changes])
        decisions.append(chunk[first][changes].astype(np.uint8))
    return np.concatenate(windows), np.concatenate(decisions)


def _windows(letters: Bytes, rows: Ints, columns: Ints) -> Ints:
    """Return (X, levels) windows around some places of letters (N, I), the shortest first."""
    padded = np.pad(letters, ((0, 0), (_MARGIN, _MARGIN)))
    codes = np.empty((len(rows), len(_WINDOW)), np.int64)
    code = np.ones(len(rows), np.int64)  # a leading one tells lengths apart and sorts by them
    for level, offset in enumerate(_WINDOW):
        code = (code << _BITS) | padded[rows, columns + _MARGIN + offset]
        codes[:, level] = code
    return codes


def letter_ids(characters: Bytes) -> Bytes:
    """Return the ids of ASCII characters: of letters from 1 on, in their order; 31 of others."""
    return _IDS[characters]


def _known_letters(word: str) -> bytes:
    """Return the ids of a word's letters, without characters that are none."""
    ids = letter_ids(np.frombuffer(word.encode("ascii", "ignore"), np.uint8))
    return bytes(ids[ids != _OTHER])


def _pad(rows: Sequence[bytes]) -> tuple[Bytes, Ints]:
    """Return rows (N, L) with 0 behind their ends, and their lengths (N,)."""
    lengths = np.array([len(row) for row in rows], np.int64)
    padded = np.zeros((len(rows), int(lengths.max(initial=0))), np.uint8)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(rows), np.uint8)
    return padded, lengths
