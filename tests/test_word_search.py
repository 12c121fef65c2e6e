"""The search over words, held against a sum over all paths of very small utterances."""

from itertools import groupby, product

import numpy as np
import pytest
import torch

from asr import word_search
from asr.lexicon import Lexicon
from asr.vocabulary import Vocabulary
from asr.word_lm import (
    MAX_HISTORY,
    NO_BACKOFF,
    WordNgramLM,
    WordTables,
    append_word,
    history_nodes,
)
from asr.word_search import Weights, search_words

PHONES = ("k", "a", "t")
LISTED = {"at": [2, 3], "cat": [1, 2, 3], "a": [2], "kay": [1, 2], "eh": [2], "tat": [3, 2, 3]}
WORDS = tuple(LISTED)
WIDE = Weights(lm=0.7, word=0.4, blank=0.3, beam_size=4000, margin=1e6, behind=1e6)


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.fit(PHONES, LISTED)


@pytest.fixture(scope="module")
def model() -> WordNgramLM:
    """Unigrams, and "at" likelier behind "cat"."""
    size = len(WORDS) + 4
    unigrams = np.log(np.linspace(0.05, 0.2, size)).astype(np.float32)
    starts = np.full(size + 1, size, dtype=np.int32)
    starts[WORDS.index("cat") + 2 :] += 1
    backoffs = np.full(size, NO_BACKOFF, dtype=np.uint8)
    words = np.append(np.arange(size), WORDS.index("at") + 1).astype(np.int32)
    steps = np.append(np.zeros(size), 3).astype(np.uint8)
    return WordNgramLM(WORDS, WordTables(unigrams, words, steps, starts, backoffs))


@pytest.fixture(scope="module")
def vocabulary(lexicon: Lexicon, model: WordNgramLM) -> Vocabulary:
    return Vocabulary.of_model(lexicon, model)


def random_log_probs(frames: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, len(PHONES) + 1, generator=generator).log_softmax(1)


def score_all(log_probs: torch.Tensor, model: WordNgramLM, weights: Weights) -> dict[str, float]:
    """Return the score of every text that has a path, by looking at every path."""
    sounds: dict[tuple[int, ...], float] = {}
    rows = log_probs.double().numpy() - [weights.blank, 0, 0, 0]
    for path in product(range(rows.shape[1]), repeat=len(rows)):
        said = tuple(label for label, _ in groupby(path) if label)
        score = float(sum(row[label] for row, label in zip(rows, path, strict=True)))
        sounds[said] = np.logaddexp(sounds.get(said, -np.inf), score)
    found: dict[str, float] = {}
    for count in range(len(rows) + 1):
        for words in product(WORDS, repeat=count):
            said = tuple(p for word in words for p in LISTED[word])
            if said in sounds:
                history, score = model.start_history, sounds[said]
                for word in words:
                    index = model.word_id(word)
                    score += weights.lm * model.log_prob(history, index) + weights.word
                    history = append_word(history, index)
                if words:
                    score += weights.lm * model.log_prob(history, model.end_id)
                found[" ".join(words)] = score
    return found


@pytest.mark.parametrize("seed", range(6))
def test_lists_are_close_to_those_of_all_paths(
    seed: int, vocabulary: Vocabulary, model: WordNgramLM
) -> None:
    log_probs = random_log_probs(5, seed)
    found = search_words(
        log_probs[None], torch.tensor([5]), [vocabulary], model, WIDE, nbest=10**6
    )[0]
    wanted = score_all(log_probs, model, WIDE)
    best = sorted(wanted, key=wanted.__getitem__, reverse=True)
    # What is dropped for another text loses the paths that would still have come to it.
    assert found[0].score == pytest.approx(wanted[best[0]], abs=0.3)
    assert {*best[:5]} <= {h.text for h in found[:20]}
    scores = {h.text: h.score for h in found}
    errors = [scores[text] - wanted[text] for text in wanted if text in scores]
    assert len(errors) >= 16 and np.median(np.abs(errors)) < 0.6
    assert np.sum(np.abs(errors) < 1e-3) >= 5  # for those, nothing was dropped
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_a_narrow_beam_finds_the_same_best(vocabulary: Vocabulary, model: WordNgramLM) -> None:
    narrow = WIDE._replace(beam_size=20, margin=12.0, behind=0.0)
    for labels in ((1, 2, 3, 2, 3), (3, 2, 3, 1, 2), (2, 2), (1, 2, 1, 2, 3)):
        heard = spell(*labels)
        given = heard[None], torch.tensor([len(heard)]), [vocabulary], model
        assert (
            search_words(*given, narrow, 1)[0][0].text == search_words(*given, WIDE, 1)[0][0].text
        )


def test_padding_threads_and_neighbours_change_nothing(
    vocabulary: Vocabulary, model: WordNgramLM
) -> None:
    rows = [random_log_probs(n, n) for n in (6, 3, 5)]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    lengths = torch.tensor([len(row) for row in rows])
    together = search_words(batch, lengths, [vocabulary] * 3, model, WIDE, 5, threads=3)
    alone = [
        search_words(row[None], torch.tensor([len(row)]), [vocabulary], model, WIDE, 5)[0]
        for row in rows
    ]
    assert together == alone


def test_silence_gives_the_empty_text(vocabulary: Vocabulary, model: WordNgramLM) -> None:
    silence = torch.tensor([[0.0, -30.0, -30.0, -30.0]]).expand(8, -1)
    found = search_words(silence[None], torch.tensor([8]), [vocabulary], model, WIDE, 1)
    assert found[0][0].text == ""


def test_no_frames_give_the_empty_text(vocabulary: Vocabulary, model: WordNgramLM) -> None:
    nothing = torch.zeros(1, 0, 4)
    found = search_words(nothing, torch.tensor([0]), [vocabulary], model, WIDE, 3)
    assert [h.text for h in found[0]] == [""]


def test_what_is_cut_off_within_a_word_keeps_the_words_before(
    vocabulary: Vocabulary, model: WordNgramLM
) -> None:
    heard = torch.cat([spell(1, 2, 3), torch.full((1, 4), -60.0)])
    heard[-1, 1] = 0.0  # surely a "k", with which no word ends
    hasty = WIDE._replace(margin=10.0)
    found = search_words(heard[None], torch.tensor([7]), [vocabulary], model, hasty, 1)
    assert found[0][0].text == "cat"


def test_what_is_given_up_is_behind_the_best_of_the_same_frame(
    vocabulary: Vocabulary, model: WordNgramLM
) -> None:
    heard = spell(1, 2, 3)
    heard[2] -= 6.0  # nothing is likely there: the best falls by more than the margin
    found = search_words(
        heard[None], torch.tensor([6]), [vocabulary], model, WIDE._replace(margin=1.0), 1
    )
    assert found[0][0].text == "cat"


def test_a_favourite_that_is_hardly_heard_is_not_given_up_at_its_first_phone(
    vocabulary: Vocabulary, lexicon: Lexicon, model: WordNgramLM
) -> None:
    heard = spell(3, 2, 3)
    heard[0] = torch.tensor([-0.1, -60.0, -60.0, -6.0])  # "t" is beyond the margin, hence "at"
    given = heard[None], torch.tensor([6])
    close = WIDE._replace(margin=5.0)
    plain = search_words(*given, [vocabulary], model, close, 1)[0][0]
    larger = vocabulary.extend({"tat": 20.0}, lexicon, model)
    favoured = search_words(*given, [larger], model, close, 1)[0][0]
    assert plain.text == "at"
    assert favoured.text == "tat"


def test_contexts_that_share_a_place_keep_their_own_nodes(model: WordNgramLM) -> None:
    known = word_search._new_known()
    words = range(1, len(WORDS) + 1)
    contexts = [
        append_word(append_word(first, second), third)
        for first, second, third in product(range(400), words, words)
    ]
    assert len(contexts) > 3 * len(known.context)  # so that places are shared
    wanted = np.empty(MAX_HISTORY, np.int32)
    for context in [*contexts, *reversed(contexts)]:
        history_nodes(model.tables, context, wanted)
        assert word_search._nodes_of(model.tables, context, known).tolist() == wanted.tolist()


@pytest.mark.parametrize("beam_size", [20, 3000, 100_000])
def test_beams_of_any_size(vocabulary: Vocabulary, model: WordNgramLM, beam_size: int) -> None:
    search = WIDE._replace(beam_size=beam_size)
    found = search_words(spell(1, 2, 3)[None], torch.tensor([6]), [vocabulary], model, search, 1)
    assert found[0][0].text == "cat"


def spell(*labels: int) -> torch.Tensor:
    """Return frames that say these labels, blank between them, nearly surely."""
    frames = [label for one in labels for label in (one, 0)]
    rows = torch.full((len(frames), len(PHONES) + 1), -6.0)
    rows[range(len(frames)), frames] = 0.0
    return rows.log_softmax(1)


def test_words_that_are_added_can_be_found(
    vocabulary: Vocabulary, lexicon: Lexicon, model: WordNgramLM
) -> None:
    heard = spell(3, 1, 3)  # no word of the vocabulary sounds like this
    before = search_words(heard[None], torch.tensor([6]), [vocabulary], model, WIDE, 1)[0][0]
    larger = vocabulary.extend({"tkt": 0.0}, _With(lexicon, {"tkt": [3, 1, 3]}), model)
    after = search_words(heard[None], torch.tensor([6]), [larger], model, WIDE, 1)[0][0]
    assert before.text != "tkt"
    assert after.text == "tkt"


def test_a_bonus_chooses_among_words_that_sound_alike(
    vocabulary: Vocabulary, lexicon: Lexicon, model: WordNgramLM
) -> None:
    heard = spell(2)
    for favourite in ("a", "eh"):
        larger = vocabulary.extend({favourite: 5.0}, lexicon, model)
        found = search_words(heard[None], torch.tensor([2]), [larger], model, WIDE, 1)
        assert found[0][0].text == favourite


def test_a_phrase_is_one_entry_with_the_scores_of_its_words(
    vocabulary: Vocabulary, lexicon: Lexicon, model: WordNgramLM
) -> None:
    heard = spell(1, 2, 3, 2, 3)
    given = heard[None], torch.tensor([10])
    plain = search_words(*given, [vocabulary], model, WIDE, 1)[0][0]
    larger = vocabulary.extend({"cat at": 2.0}, lexicon, model)
    favoured = search_words(*given, [larger], model, WIDE, 1)[0][0]
    assert plain.text == favoured.text == "cat at"
    assert favoured.score == pytest.approx(plain.score + 2.0, abs=1e-3)


class _With:
    """A lexicon and a few pronunciations more."""

    def __init__(self, lexicon: Lexicon, more: dict[str, list[int]]) -> None:
        self.lexicon, self.more = lexicon, more

    def encode(self, text: str) -> list[int]:
        return self.more.get(text) or self.lexicon.encode(text)
