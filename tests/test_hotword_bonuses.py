"""What hot words win in the search over words, beside what the language model says of them."""

from itertools import pairwise

import numpy as np
import pytest

from asr.hotword_bonuses import hotword_bonuses
from asr.hotwords import HotwordError
from asr.lexicon import Lexicon
from asr.word_lm import NO_BACKOFF, WordNgramLM, WordTables

ALPHABET = " 'abdst"
LISTED = {"a": [1], "ab": [1, 2], "bad": [2, 1, 3], "sad": [4, 1, 3], "dad": [3, 1, 3]}
UNIGRAMS = {"a": -1.0, "ab": -7.0, "bad": -11.0, "sad": -14.0, "dad": -16.0}
UNKNOWN = -4.0
LEXICON = Lexicon.fit("abds", LISTED)


@pytest.fixture(scope="module")
def model() -> WordNgramLM:
    """Unigrams, and "sad" nearly sure behind "bad"."""
    size = len(LISTED) + 4
    unigrams = np.array([-99.0, *UNIGRAMS.values(), UNKNOWN, -99.0, -4.0], dtype=np.float32)
    words = tuple(LISTED)
    starts = np.full(size + 1, size, dtype=np.int32)
    starts[words.index("bad") + 2 :] += 1
    tables = WordTables(
        unigrams,
        np.append(np.arange(size), words.index("sad") + 1).astype(np.int32),
        np.append(np.zeros(size), 4).astype(np.uint8),
        starts,
        np.full(size, NO_BACKOFF, dtype=np.uint8),
    )
    return WordNgramLM(words, tables)


def bonuses(
    model: WordNgramLM, *phrases: str, weight: float = 0.5, lm_weight: float = 1.0
) -> dict[str, float]:
    return hotword_bonuses(phrases, weight, lm_weight, LEXICON, model, ALPHABET)


def test_a_known_word_wins_by_its_characters(model: WordNgramLM) -> None:
    won = bonuses(model, "sad", "dad")
    assert won["sad"] == won["dad"] > 0
    assert bonuses(model, "sad", weight=1.0)["sad"] == pytest.approx(2 * won["sad"])


@pytest.mark.parametrize("lm_weight", [0.5, 1.0])
def test_an_unknown_word_costs_what_the_rarest_does(model: WordNgramLM, lm_weight: float) -> None:
    won = bonuses(model, "dad", "das", lm_weight=lm_weight)
    assert lm_weight * UNKNOWN + won["das"] == pytest.approx(
        lm_weight * UNIGRAMS["dad"] + won["dad"]
    )


def test_no_word_becomes_much_likelier_than_a_common_one(model: WordNgramLM) -> None:
    weight = 4.0
    won = bonuses(model, "a", "ab", "bad", "sad", "dasdad", "sad dad bad", weight=weight)
    character = won["a"]  # is common by itself
    for text in ("ab", "bad", "sad"):
        assert UNIGRAMS[text] + won[text] == pytest.approx(-6.0 + character)
    assert UNKNOWN + won["dasdad"] == pytest.approx(-6.0 + character)
    three = sum(UNIGRAMS[word] for word in ("sad", "dad", "bad"))
    assert three + won["sad dad bad"] == pytest.approx(-6.0 + character)


def test_a_phrase_that_the_model_expects_wins_less(model: WordNgramLM) -> None:
    won = bonuses(model, "bad sad", "sad bad", weight=4.0)
    given = 4 / 8  # nats below a sure thing
    assert -11.0 - given + won["bad sad"] == pytest.approx(-11.0 - 14.0 + won["sad bad"], abs=0.01)


def test_more_weight_is_more_bonus(model: WordNgramLM) -> None:
    phrases = ("a", "sad", "das", "bad das")
    rows = [bonuses(model, *phrases, weight=w) for w in (0.0, 0.3, 1.25, 2.0, 8.0)]
    for less, more in pairwise(rows):
        assert all(less[text] < more[text] for text in phrases)


def test_possessives_and_unknown_words_of_phrases_come_along(model: WordNgramLM) -> None:
    won = bonuses(model, "bad tabs")
    assert set(won) == {"bad tabs", "bad tabs's", "tabs"}
    alone = bonuses(model, "tabs")
    assert set(alone) == {"tabs", "tabs's"}
    base = UNKNOWN - UNIGRAMS["dad"]  # what makes it as rare as the rarest
    assert won["tabs"] + base == pytest.approx((alone["tabs"] + base) / 2)
    # Asked for by itself, it wins all of its own, whichever stands first.
    for phrases in (("bad tabs", "tabs"), ("tabs", "bad tabs")):
        assert bonuses(model, *phrases)["tabs"] == alone["tabs"]
    assert set(bonuses(model, "dad's")) == {"dad's"}


def test_an_alphabet_without_apostrophes_has_no_possessives(model: WordNgramLM) -> None:
    assert set(hotword_bonuses(["das"], 1.0, 1.0, LEXICON, model, " abds")) == {"das"}


@pytest.mark.parametrize(
    ("phrase", "weight", "message"),
    [
        ("'", 1.0, 'hot word "\'": found no letter'),
        ("", 1.0, "hot word '': found no letter"),
        ("bäd", 1.0, "hot word 'bäd': found character 'ä'"),
        ("bad", -1.0, "found weight -1.0, wanted 0 or more"),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    model: WordNgramLM, phrase: str, weight: float, message: str
) -> None:
    with pytest.raises(HotwordError, match=message):
        bonuses(model, "sad", phrase, weight=weight)
