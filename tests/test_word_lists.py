"""Lists of texts, from sequences of words that were kept and dropped."""

import numpy as np

from asr.prefix_tree import PrefixTree
from asr.vocabulary import EntryTables, Vocabulary
from asr.word_lists import Joined, WordHypothesis, best_texts, join, new_joined

UNKNOWN = 6
# Sequences by number: 1 "a", 2 "b", 3 "a c", 4 "a d", 5 "b c", 6 "a c e", 7 "b d".
PARENTS = np.array([0, 0, 0, 1, 1, 2, 3, 2], np.int32)
LAST = np.array([-1, 0, 1, 2, 3, 2, 4, 3], np.int32)


def vocabulary_of(words: dict[str, list[int]]) -> Vocabulary:
    """Return entries that are the words of these ids."""
    ends = np.cumsum([0, *map(len, words.values())])
    ids = np.concatenate(list(words.values()))
    tree = PrefixTree.build(
        np.ones((1, 1), np.uint8), np.ones(1, np.int64), np.zeros(1, np.float32)
    )
    return Vocabulary(tuple(words), tree, np.zeros(1), EntryTables(ends, ids, np.zeros(len(words))))


VOCABULARY = vocabulary_of({"a": [1], "b": [2], "c": [3], "d": [4], "e": [5]})


def listed(joined: Joined, nbest: int, *final: tuple[int, float]) -> list[tuple[str, float]]:
    histories = np.array([number for number, _ in final])
    scores = np.array([score for _, score in final])
    found = best_texts(scores, histories, PARENTS, LAST, joined, VOCABULARY, UNKNOWN, nbest)
    return [(one.text, round(one.score, 4)) for one in found]


def test_without_dropped_ones_the_last_are_all_there_are() -> None:
    assert listed(new_joined(False), 5, (3, -4.0), (6, -3.0)) == [("a c e", -3.0), ("a c", -4.0)]


def test_beginnings_are_exchanged_for_what_they_cost() -> None:
    joined = new_joined(True)
    join(joined, 1, 2, 0.5, 3)  # "b" dropped for "a"
    join(joined, 3, 4, 0.25, 7)  # "a d" for "a c"
    # In "a d", too, "a" had been kept for "b": that was earlier.
    wanted = [("a c e", -3.0), ("a d e", -3.25), ("b c e", -3.5), ("b d e", -3.75)]
    assert listed(joined, 9, (6, -3.0)) == wanted
    assert listed(joined, 2, (6, -3.0)) == wanted[:2]


def test_only_what_was_earlier_is_exchanged_further() -> None:
    joined = new_joined(True)
    join(joined, 1, 2, 0.5, 9)
    join(joined, 3, 4, 0.25, 7)
    assert listed(joined, 9, (6, -3.0)) == [("a c e", -3.0), ("a d e", -3.25), ("b c e", -3.5)]


def test_pairs_that_exchange_each_other_end() -> None:
    joined = new_joined(True)
    join(joined, 1, 3, 0.5, 4)
    join(joined, 3, 1, 0.5, 5)
    found = listed(joined, 50, (3, -1.0))
    assert found[:2] == [("a c", -1.0), ("a", -1.5)]
    assert len(found) < 6


def test_the_least_cost_of_a_pair_counts() -> None:
    joined = new_joined(True)
    for behind in (0.75, 0.25, 0.5):
        join(joined, 1, 2, behind, 3)
    assert listed(joined, 9, (1, -1.0)) == [("a", -1.0), ("b", -1.25)]


def test_nothing_found_is_the_empty_text() -> None:
    empty = np.zeros(0)
    found = best_texts(empty, empty, PARENTS, LAST, new_joined(True), VOCABULARY, UNKNOWN, 3)
    assert found == [WordHypothesis("", 0.0)]


def test_a_phrase_is_as_its_words_and_unknown_words_are_not_alike() -> None:
    said = vocabulary_of({"a": [1], "b": [2], "a b": [1, 2], "x": [UNKNOWN], "y": [UNKNOWN]})
    # Sequences by number: 1 "a", 2 "a" "b", 3 "a b", 4 "x", 5 "y".
    parents, last = np.array([0, 0, 1, 0, 0, 0], np.int32), np.array([-1, 0, 1, 2, 3, 4], np.int32)
    scores = np.array([-1.0, -2.0, -3.0, -4.0, -5.0])
    found = best_texts(
        scores, np.arange(1, 6), parents, last, new_joined(True), said, UNKNOWN, nbest=4
    )
    wanted = [("a", -1.0), ("a b", -2.0), ("x", -4.0), ("y", -5.0)]
    assert found == [WordHypothesis(*pair) for pair in wanted]
