"""What was heard, cut into words and phones and joined to other texts."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from random_model import heard_words
from safetensors.numpy import load_file, save_file

from asr.heard import HeardError, HeardPhones, HeardRecording
from asr.lexicon import Lexicon

LEXICON = Lexicon.fit(
    ["one", "two", "three"], {"ab": [1, 2], "bc": [2, 3], "cab": [3, 1, 2], "b": [2], "c": [3]}
)


@pytest.fixture(scope="module")
def heard() -> HeardPhones:
    return heard_words(LEXICON, ["ab bc", "cab b c", "c ab"] * 20)


def said_by(heard: HeardPhones, labels: np.ndarray) -> list[int]:
    """Return the phones whose beginnings are among labels."""
    begins = np.flatnonzero(np.isin(heard.starts, labels))
    where = {
        int(start): int(phone)
        for start, phone in zip(heard.starts[begins], heard.phones[begins], strict=True)
    }
    return [where[int(label)] for label in labels if int(label) in where and where[int(label)]]


@pytest.mark.parametrize("text", ["ab", "cab ab", "bc b c cab", "ab ab ab"])
def test_labels_say_a_text(heard: HeardPhones, text: str) -> None:
    for seed in range(10):
        labels = heard.read(text, LEXICON, np.random.default_rng(seed))
        assert said_by(heard, labels) == LEXICON.encode(text)
        assert heard.starts[heard.phones == 0].tolist().count(int(labels[0])) == 1  # silence first


def test_words_are_taken_whole_and_otherwise_between_the_same_neighbours() -> None:
    heard = heard_words(LEXICON, ["cab", "ab"])
    found = {
        tuple(heard.read("cab", LEXICON, np.random.default_rng(seed))[-4:]) for seed in range(30)
    }
    assert found  # of one recording alone: its phones lie one behind the other
    assert all(np.diff(labels).tolist() == [1, 1, 1] for labels in found)
    # Never said: from "b" at the end of a word, and "c" at its beginning.
    labels = heard.read("bc", LEXICON, np.random.default_rng(1))
    assert said_by(heard, labels) == [2, 3]


def test_pieces_are_chosen_by_chance(heard: HeardPhones) -> None:
    found = {
        tuple(heard.read("cab c", LEXICON, np.random.default_rng(n)).tolist()) for n in range(20)
    }
    assert len(found) > 10
    again = heard.read("cab c", LEXICON, np.random.default_rng(3))
    assert np.array_equal(again, heard.read("cab c", LEXICON, np.random.default_rng(3)))


def test_phones_that_nobody_said_are_left_out() -> None:
    heard = heard_words(LEXICON, ["ab"])
    labels = heard.read("c ab c", LEXICON, np.random.default_rng(0))
    assert said_by(heard, labels) == [1, 2]
    assert len(heard.read("", LEXICON, np.random.default_rng(0)))  # silence


def test_recordings_that_cannot_be_aligned_are_left_out() -> None:
    rows = np.full((6, 4), 0.25, np.float16)
    words = [((1, 2), "ab")]
    good = HeardRecording(rows, np.array([0, 1, 1, 2, 0, 0]), words)
    bad = [
        HeardRecording(rows, np.zeros(6, np.int64), words),
        HeardRecording(rows, np.array([1, 1, 2, 0, 0, 0]), words),  # no silence before it
        HeardRecording(rows, np.array([0, 1, 1, 2, 0, 0]), [*words, ((), "'")]),
        HeardRecording(rows, np.zeros(6, np.int64), []),
    ]
    found = HeardPhones.collect([*bad, good, good])
    assert found.words == ("ab", "ab") and len(found.probabilities) == 12
    assert found.phones.tolist() == [0, 1, 2] * 2
    assert found.starts.tolist() == [0, 1, 3, 6, 7, 9]
    assert [key for key, _ in groupby(found.word_starts.tolist())] == [False, True] * 2 + [False]
    with pytest.raises(HeardError, match="no recording with words"):
        HeardPhones.collect(bad)


def test_a_file_gives_the_same_back(heard: HeardPhones, tmp_path: Path) -> None:
    path = tmp_path / "heard.safetensors"
    heard.save(path)
    again = HeardPhones.load(path, LEXICON.num_labels)
    for name, value in vars(again).items():
        assert np.array_equal(value, getattr(heard, name)), name
    labels = [one.read("cab bc", LEXICON, np.random.default_rng(5)) for one in (heard, again)]
    assert np.array_equal(*labels)


def test_files_that_cannot_be_used_are_one_line(heard: HeardPhones, tmp_path: Path) -> None:
    path = tmp_path / "heard.safetensors"
    with pytest.raises(HeardError, match=r"heard\.safetensors: not a file"):
        HeardPhones.load(path, 4)
    heard.save(path)
    with pytest.raises(HeardError, match="wanted those of 41 phones"):
        HeardPhones.load(path, 42)
    whole = load_file(path)
    for name, value in (
        ("starts", whole["starts"][::-1].copy()),
        ("phones", whole["phones"] + np.uint8(5)),
        ("words", whole["words"][:-3].copy()),
        ("word_starts", whole["word_starts"][:-1].copy()),
    ):
        save_file({**whole, name: value}, path, {"format": "heard phones 1"})
        with pytest.raises(HeardError, match="not a file of heard phones"):
            HeardPhones.load(path, 4)
