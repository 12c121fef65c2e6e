"""The recurrent language model of words, and its mixture with n-grams."""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import equal_words
from safetensors.torch import load_file, save_file

from asr import recurrent_lm
from asr.language_model import LanguageModelError
from asr.recurrent_lm import RecurrentWordLM
from asr.rescore import MixedWordLM

WORDS = ("the", "old", "man", "sea")


@pytest.fixture(scope="module")
def model() -> RecurrentWordLM:
    torch.manual_seed(3)
    return RecurrentWordLM(WORDS, 8, 12).eval()


@torch.no_grad()
def one_by_one(model: RecurrentWordLM, text: list[str]) -> list[float]:
    """Return what `score_texts` should: word by word, with nothing shared."""
    ids = [0, *model.encode(text)]
    found = []
    for end in range(1, len(ids) + 1):
        logits = model.logits(model(torch.tensor([ids[:end]]))[:, -1])[0]
        found.append(float(logits[ids[end] if end < len(ids) else 0]))
    return found


def test_texts_score_as_word_by_word(model: RecurrentWordLM) -> None:
    texts = [["the", "old", "man"], ["the", "old", "sea"], [], ["the", "whale"], ["the", "old"]]
    for text, found in zip(texts, model.score_texts(texts), strict=True):
        assert found.tolist() == pytest.approx(one_by_one(model, text), abs=1e-5)


def test_texts_that_agree_for_long_go_on_as_one(
    model: RecurrentWordLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_lm, "HISTORY_WORDS", 2)
    first, second = ["the", "old", "man", "sea"], ["sea", "old", "man", "sea"]
    found = [scores.tolist() for scores in model.score_texts([first, second])]
    assert found[0] == pytest.approx(one_by_one(model, first), abs=1e-5)
    assert found[1][:3] == pytest.approx(one_by_one(model, second)[:3], abs=1e-5)
    assert found[1][3:] == found[0][3:]  # behind "old man"
    assert found[1][3:] != pytest.approx(one_by_one(model, second)[3:], abs=1e-5)


def test_a_saved_model_scores_nearly_the_same(model: RecurrentWordLM, tmp_path: Path) -> None:
    model.save(tmp_path / "lm.safetensors")
    again = RecurrentWordLM.load(tmp_path / "lm.safetensors")
    assert again.words == WORDS and not again.training
    text = ["the", "old", "man"]
    assert torch.allclose(again.score_texts([text])[0], model.score_texts([text])[0], atol=0.05)
    again.save(tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("lm", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_damaged_files_are_named(model: RecurrentWordLM, tmp_path: Path) -> None:
    path = tmp_path / "lm.safetensors"
    with pytest.raises(LanguageModelError, match=r"lm\.safetensors: not a recurrent"):
        RecurrentWordLM.load(path)
    model.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(LanguageModelError, match="not a recurrent"):
        RecurrentWordLM.load(path)
    path.write_bytes(whole)
    tensors = load_file(path)
    save_file(tensors, path, {"format": "another"})
    with pytest.raises(LanguageModelError, match="found format 'another'"):
        RecurrentWordLM.load(path)
    tensors["bias"] = tensors["bias"][:-1].clone()
    save_file(tensors, path, {"format": "recurrent words 2"})
    with pytest.raises(LanguageModelError, match="not a recurrent"):
        RecurrentWordLM.load(path)
    tensors["bias"] = torch.full((6,), float("nan"))
    save_file(tensors, path, {"format": "recurrent words 2"})
    with pytest.raises(LanguageModelError, match="NaN"):
        RecurrentWordLM.load(path)


def test_a_mixture_lies_between_its_parts(model: RecurrentWordLM) -> None:
    ngrams = equal_words(WORDS)
    texts = ["the old man", "sea the", ""]
    recurrent = [float(scores.sum()) for scores in model.score_texts([t.split() for t in texts])]
    before = [float(ngrams.score_words(text.split()).sum()) for text in texts]
    mixed = MixedWordLM(ngrams, model)
    assert mixed.gains(texts, 0.0) == pytest.approx([0.0] * 3, abs=1e-9)
    alone = [a - b for a, b in zip(recurrent, before, strict=True)]
    assert mixed.gains(texts, 1.0) == pytest.approx(alone, abs=1e-4)
    half = mixed.gains(["the"], 0.5)[0]
    words = [float(p) for p in model.score_texts([["the"]])[0]]
    wanted = sum(np.log(0.5 * np.exp(p) + 0.5 * 0.1) - np.log(0.1) for p in words)
    assert half == pytest.approx(wanted, abs=1e-5)


def test_words_that_only_ngrams_know_share_what_is_unknown(model: RecurrentWordLM) -> None:
    mixed = MixedWordLM(equal_words((*WORDS, "whale", "ship")), model)
    unknown = float(model.score_texts([["whale"]])[0].sum())
    # "whale", "ship" and <unk> are equally likely.
    wanted = unknown - np.log(3) - 2 * np.log(0.1)
    assert mixed.gains(["whale", "ship", "qqq"], 1.0) == pytest.approx([wanted] * 3, abs=1e-4)
