"""The character language model: against a dictionary of counts, on disk and in the search."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.config import ENGLISH_ALPHABET
from asr.lm import CharNgramLM, LanguageModelError, LanguageModelScorer
from asr.search import beam_search
from asr.tokenizer import CharTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "language_model"))

import train as recipe

TEXT = (
    " the old man said that the old house was his and that he had told them so it is not the "
    "house that makes the man said the old woman but the man that makes the house and so they "
    "all said that it was so and they had the cake that she had made and it's been eaten "
)
ORDER = 5


@pytest.fixture(scope="module")
def model() -> CharNgramLM:
    return recipe.compile_model(recipe.estimate(TEXT, ENGLISH_ALPHABET, ORDER), ENGLISH_ALPHABET)


def slow_probability(context: str, letter: str) -> float:
    """Interpolated Kneser-Ney from dictionaries, after its textbook formula."""

    def counts(length: int) -> dict[str, int]:
        if length == ORDER:
            table: dict[str, int] = defaultdict(int)
            for i in range(len(TEXT) - ORDER + 1):
                table[TEXT[i : i + ORDER]] += 1
            return table
        before = defaultdict(set)
        for gram in longer(length + 1):
            before[gram[1:]].add(gram[0])
        return {gram: len(letters) for gram, letters in before.items()}

    def longer(length: int) -> set[str]:
        # As in the recipe, n-grams are suffixes of the longest ones.
        grams = {TEXT[i : i + ORDER] for i in range(len(TEXT) - ORDER + 1)}
        return {gram[ORDER - length :] for gram in grams}

    probability = 1 / len(ENGLISH_ALPHABET)
    for length in range(1, ORDER + 1):
        history = context[len(context) - length + 1 :] if length > 1 else ""
        table = counts(length)
        here = {gram: n for gram, n in table.items() if gram[:-1] == history}
        if not here:
            break
        ones, twos = (sum(n == k for n in table.values()) for k in (1, 2))
        discount = ones / (ones + 2 * twos) if ones and twos else 0.5
        total = sum(here.values())
        kept = {gram: max(n - discount, 0) for gram, n in here.items()}
        mass = (total - sum(kept.values())) / total
        probability = kept.get(history + letter, 0) / total + mass * probability
    return probability


def codes_of(model: CharNgramLM, text: str) -> torch.Tensor:
    codes = torch.zeros(1, dtype=torch.int64)
    for letter in text:
        codes = model.append(codes, torch.tensor([model.alphabet.index(letter)]))
    return codes


@pytest.mark.parametrize(
    "context", ["the ", "said", " old", "hous", "zzzz", "xthe", "it's", "that"]
)
def test_equals_kneser_ney_from_dictionaries(model: CharNgramLM, context: str) -> None:
    log_probs = model.log_probs(codes_of(model, context))[0]
    for index, letter in enumerate(ENGLISH_ALPHABET):
        expected = math.log(slow_probability(context, letter))
        # Stored values and the weights of up to five orders are rounded to sixteenths.
        assert log_probs[index].item() == pytest.approx(expected, abs=0.25), letter


@pytest.mark.parametrize("max_ngrams", [10**9, 300, 40])
def test_probabilities_sum_to_one(max_ngrams: int) -> None:
    orders = recipe.prune(recipe.estimate(TEXT, ENGLISH_ALPHABET, ORDER), max_ngrams)
    model = recipe.compile_model(orders, ENGLISH_ALPHABET)
    assert model.num_ngrams <= max(max_ngrams, len(orders[0].codes))
    codes = torch.from_numpy(recipe.pack(TEXT, ENGLISH_ALPHABET, 6))
    np.testing.assert_allclose(model.log_probs(codes).exp().sum(dim=1), 1.0, atol=0.12)


def test_pruning_costs_little_at_first_and_more_later() -> None:
    orders = recipe.estimate(TEXT, ENGLISH_ALPHABET, ORDER)
    sizes = (10**9, 400, 100)
    bits = [
        recipe.bits_per_character(
            recipe.compile_model(recipe.prune(orders, size), ENGLISH_ALPHABET), TEXT
        )
        for size in sizes
    ]
    assert bits[0] < bits[1] < bits[2] < math.log2(len(ENGLISH_ALPHABET))


def test_file_round_trip(model: CharNgramLM, tmp_path: Path) -> None:
    model.save(tmp_path / "lm.safetensors")
    loaded = CharNgramLM.load(tmp_path / "lm.safetensors")
    codes = torch.from_numpy(recipe.pack(TEXT, ENGLISH_ALPHABET, 6))
    assert torch.equal(loaded.log_probs(codes), model.log_probs(codes))
    data = (tmp_path / "lm.safetensors").read_bytes()
    for cut in (0, 1, 50, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:cut])
        with pytest.raises(LanguageModelError, match="not a language model"):
            CharNgramLM.load(tmp_path / "cut")


def test_scorer_spells_what_the_text_says(model: CharNgramLM) -> None:
    tokenizer = CharTokenizer(ENGLISH_ALPHABET)
    scorer = LanguageModelScorer(model, tokenizer, 2, torch.device("cpu"))
    state = scorer.initial_state(3)
    scores, state = scorer.score(torch.full((6,), tokenizer.sos_id), state)
    assert scores.shape == (6, tokenizer.size)
    expected = model.log_probs(codes_of(model, " "))[0]
    torch.testing.assert_close(scores[4, 3:], expected)
    assert scores[0, tokenizer.eos_id] == expected[0]  # it may end where a space could come
    assert torch.isinf(scores[:, :2]).all()
    state = scorer.reorder(state, torch.tensor([2, 1, 0, 3, 3, 3]))
    (nbest, _) = beam_search(
        [(scorer, 1.0)], 2, torch.tensor([8, 8]), beam_size=4, sos_id=1, eos_id=2, length_bonus=2.0
    )
    assert set(tokenizer.decode(nbest[0].tokens).split()) <= set(TEXT.split())


def test_texts_are_scored_character_by_character(model: CharNgramLM) -> None:
    alphabet = model.alphabet
    texts = ["", alphabet.replace(" ", "")[:2], " ".join(alphabet.replace(" ", "")[:3])]
    scores = model.score_texts(texts)
    assert scores.shape == (3, max(map(len, texts)) + 1)
    for row, text in zip(scores, texts, strict=True):
        code = model.append(torch.zeros(1, dtype=torch.int64), torch.tensor([alphabet.index(" ")]))
        for place, character in enumerate(text + " "):
            letter = alphabet.index(character)
            assert float(row[place]) == float(model.log_probs(code)[0, letter])
            code = model.append(code, torch.tensor([letter]))
        assert not row[len(text) + 1 :].any()


def test_other_alphabets_are_refused(model: CharNgramLM) -> None:
    with pytest.raises(LanguageModelError, match="wanted 'abc '"):
        LanguageModelScorer(model, CharTokenizer("abc "), 1, torch.device("cpu"))
    with pytest.raises(LanguageModelError, match="with a space among them"):
        CharNgramLM("abc", [])


def test_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [TEXT] * 150
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "t.txt").write_text("1-2-3 THE END\n", encoding="utf-8")
    arguments = [str(tmp_path / "a.txt"), "--transcripts", str(tmp_path / "t.txt"), "--order", "4"]
    assert recipe.main([*arguments, "--output", str(tmp_path / "out" / "lm.safetensors")]) == 0
    assert CharNgramLM.load(tmp_path / "out" / "lm.safetensors").max_context == 3
    assert "bits a character" in capsys.readouterr().out
    assert recipe.main(["missing.txt", "--output", str(tmp_path / "x")]) == 2
    assert "missing.txt" in capsys.readouterr().err
