"""The pronunciations of a vocabulary as a tree: words that begin alike share their beginnings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = np.ndarray[Any, Any]


class TreeTables(NamedTuple):
    """A prefix tree in arrays, for compiled code. Node 0 is the root.

    Attributes:
        first_child: (N + 1,) int32: node n has children ``first_child[n]:first_child[n + 1]`` of
            the next two.
        child_phone: (N - 1,) int32.
        child: (N - 1,) int32 nodes.
        first_entry: (N + 1,) int32: entries of the vocabulary that end at node n are
            ``entry[first_entry[n]:first_entry[n + 1]]``.
        entry: (E,) int32.
        best: (N,) float32, the highest of the scores of the entries below a node.
    """

    first_child: Array
    child_phone: Array
    child: Array
    first_entry: Array
    entry: Array
    best: Array


@dataclass(frozen=True)
class PrefixTree:
    """See `TreeTables`.

    Attributes:
        tables: The arrays.
        num_entries: E; entries without a phone are in it and cannot be found.
    """

    tables: TreeTables
    num_entries: int

    @classmethod
    def build(
        cls,
        phones: npt.NDArray[np.uint8],
        lengths: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> PrefixTree:
        """Build the tree of E entries.

        Args:
            phones: (E, L) phone ids from 1 on, padded with 0.
            lengths: (E,) phones of each entry; one of 0 is left out.
            scores: (E,) for the look-ahead: natural-log probabilities, or anything added to them.
        """
        kept = np.flatnonzero(lengths > 0)
        width = max(1, int(lengths.max(initial=1)))
        rows = np.ascontiguousarray(phones[kept, :width])
        order = np.argsort(rows.view(f"S{width}")[:, 0] if len(rows) else kept, kind="stable")
        rows, entries = rows[order], kept[order]
        # In sorted order, an entry opens a node at each depth from its first new phone on.
        differs = np.ones(rows.shape, dtype=bool)
        differs[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
        opens = differs & (rows > 0)
        numbers = np.where(opens, opens.cumsum().reshape(opens.shape), 0)
        nodes = np.maximum.accumulate(numbers, axis=0)  # of every phone of every entry
        parents = np.concatenate([np.zeros((len(rows), 1), nodes.dtype), nodes[:, :-1]], axis=1)
        count = int(opens.sum()) + 1
        parent, phone = parents[opens], rows[opens].astype(np.int32)
        by_parent = np.argsort(parent, kind="stable")
        ends = nodes[np.arange(len(rows)), lengths[entries] - 1]
        by_end = np.argsort(ends, kind="stable")
        best = np.full(count, -np.inf, dtype=np.float32)
        spoken = rows > 0
        above = np.broadcast_to(scores[entries, None], rows.shape)[spoken].astype(np.float32)
        np.maximum.at(best, nodes[spoken], above)
        best[0] = best.max(initial=-np.inf)
        return cls(
            TreeTables(
                _starts(parent, count),
                phone[by_parent],
                (by_parent + 1).astype(np.int32),
                _starts(ends, count),
                entries[by_end].astype(np.int32),
                best,
            ),
            len(lengths),
        )

    def join(self, other: PrefixTree) -> PrefixTree:
        """Return a forest of both: the other's root follows this one's last node.

        Its entries are counted on from this one's.
        """
        ours, theirs = self.tables, other.tables
        nodes = len(ours.best)
        return PrefixTree(
            TreeTables(
                np.concatenate([ours.first_child, theirs.first_child[1:] + len(ours.child)]),
                np.concatenate([ours.child_phone, theirs.child_phone]),
                np.concatenate([ours.child, theirs.child + np.int32(nodes)]),
                np.concatenate([ours.first_entry, theirs.first_entry[1:] + len(ours.entry)]),
                np.concatenate([ours.entry, theirs.entry + np.int32(self.num_entries)]),
                np.concatenate([ours.best, theirs.best]),
            ),
            self.num_entries + other.num_entries,
        )


def _starts(owners: Array, count: int) -> Array:
    """Return where the part of each of ``count`` owners begins in the sorted list, and its end."""
    sizes = np.bincount(owners, minlength=count)
    return np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
