"""The prefix tree: every pronunciation is a path, shared beginnings are shared nodes."""

import numpy as np
import pytest

from asr.prefix_tree import PrefixTree


def build(rows: list[list[int]], scores: list[float] | None = None) -> PrefixTree:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    phones = np.zeros((len(rows), max(1, int(lengths.max(initial=0)))), dtype=np.uint8)
    for into, row in zip(phones, rows, strict=True):
        into[: len(row)] = row
    given = scores or [0.0] * len(rows)
    return PrefixTree.build(phones, lengths, np.array(given, dtype=np.float32))


def walk(tree: PrefixTree, root: int = 0) -> dict[int, list[int]]:
    """Return the phones on the way to each entry."""
    t, found, todo = tree.tables, {}, [(root, [])]
    while todo:
        node, path = todo.pop()
        for entry in t.entry[t.first_entry[node] : t.first_entry[node + 1]]:
            found[int(entry)] = path
        for place in range(t.first_child[node], t.first_child[node + 1]):
            todo.append((int(t.child[place]), [*path, int(t.child_phone[place])]))
    return found


ROWS = [[3, 1, 2], [3, 1], [2], [3, 1, 2], [], [3, 2, 2], [40, 41]]


def test_every_entry_lies_behind_its_phones() -> None:
    assert walk(build(ROWS)) == {n: row for n, row in enumerate(ROWS) if row}


def test_equal_beginnings_are_stored_once() -> None:
    beginnings = {tuple(row[:n]) for row in ROWS for n in range(len(row) + 1)}
    assert len(build(ROWS).tables.best) == len(beginnings)


def test_best_is_the_highest_score_below() -> None:
    tree = build([[1, 2], [1, 3], [1], [4]], [-3.0, -2.0, -5.0, -7.0])
    t = tree.tables
    by_phone = {int(p): float(t.best[c]) for p, c in zip(t.child_phone, t.child, strict=True)}
    assert by_phone == {1: -2.0, 2: -3.0, 3: -2.0, 4: -7.0}
    assert t.best[0] == -2.0


@pytest.mark.parametrize("rows", [[], [[]], [[7]]])
def test_small_vocabularies(rows: list[list[int]]) -> None:
    assert walk(build(rows)) == {n: row for n, row in enumerate(rows) if row}


def test_random_vocabularies_come_back() -> None:
    chance = np.random.default_rng(3)
    rows = [list(map(int, chance.integers(1, 4, chance.integers(1, 7)))) for _ in range(300)]
    assert walk(build(rows)) == dict(enumerate(rows))


def test_a_forest_keeps_both_trees() -> None:
    first, second = build(ROWS), build([[3, 1], [9]])
    both = first.join(second)
    assert walk(both) == walk(first)
    root = len(first.tables.best)
    assert walk(both, root) == {len(ROWS): [3, 1], len(ROWS) + 1: [9]}
    assert both.num_entries == len(ROWS) + 2
