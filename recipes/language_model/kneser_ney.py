"""What the models of characters and of words share: reading, smoothing and choosing n-grams.

Smoothing is interpolated Kneser-Ney (Kneser & Ney 1995; Chen & Goodman 1998); pruning keeps the
n-grams whose loss would cost most (Seymore & Rosenfeld 1996).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.texts import open_text

HELD_OUT_EVERY = 100
Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def read_raw_lines(path: Path, transcripts: bool = False) -> Iterator[str]:
    """Yield the lines of a text file that may be compressed, without the ids of transcripts."""
    with open_text(path) as file:
        for line in file:
            yield line.partition(" ")[2] if transcripts else line


def one_discount(counts: NDArray[np.int64]) -> Floats:
    """Return Ney's discount (1,) for all counts."""
    ones, twos = (counts == 1).sum(), (counts == 2).sum()
    return np.full(1, ones / (ones + 2 * twos) if ones and twos else 0.5)


def smooth(contexts: Codes, counts: NDArray[np.int64], lower: Floats, discounts: Floats) -> Floats:
    """Return interpolated probabilities: discounted counts, and the discount's mass for `lower`.

    Args:
        contexts: (N,) what stands before each n-gram's last symbol; equal ones are neighbours.
        counts: (N,)
        lower: (N,) probabilities under the order below.
        discounts: (K,) what counts of 1, 2, … lose; the last one is for all higher counts.
    """
    starts = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
    sizes = np.diff(np.r_[starts, len(contexts)])
    totals = np.repeat(np.add.reduceat(counts, starts), sizes)
    discount = discounts[np.clip(counts, 1, len(discounts)) - 1]
    discounted = np.maximum(counts - discount, 0)
    kept = np.repeat(np.add.reduceat(discounted, starts), sizes)
    result: Floats = (discounted + (totals - kept) * lower) / totals
    return result


def choose(
    costs: list[Floats],
    contexts: Callable[[int, NDArray[np.bool_]], Codes],
    max_ngrams: int,
) -> list[NDArray[np.bool_]]:
    """Choose at most some n-grams: those whose replacement by a shorter context would cost most.

    All of the lowest order stay, and so does every n-gram that is the context of another one.

    Args:
        costs: (N,) for each order from the lowest on, whose are infinite.
        contexts: Gives, for an order from 1 on and a mask of its n-grams, their contexts' places
            in the order below.
        max_ngrams: At most so many, if the lowest order does not have more.
    """
    every = np.sort(np.concatenate(costs))
    wanted = min(max_ngrams, len(every))
    while True:
        keep = [cost >= every[-wanted] for cost in costs]
        for order in range(len(costs) - 1, 0, -1):
            keep[order - 1][contexts(order, keep[order])] = True
        total = sum(int(kept.sum()) for kept in keep)
        if total <= max_ngrams or wanted <= len(costs[0]):
            return keep
        wanted = max(len(costs[0]), wanted * max_ngrams // total - 1)


def three_discounts(counts: NDArray[np.int64]) -> Floats:
    """Return the discounts (3,) of counts of 1, of 2 and of more (Chen & Goodman 1998)."""
    ones, twos, threes, fours = ((counts == n).sum() for n in (1, 2, 3, 4))
    if not (ones and twos and threes and fours):
        return one_discount(counts)
    y = ones / (ones + 2 * twos)
    discounts = np.array(
        [1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes]
    )
    # A text that is counted more than once has few odd counts; no count may grow or vanish.
    return np.clip(discounts, 0.1, [0.95, 1.9, 2.9])
