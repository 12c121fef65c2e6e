"""`recipes/librispeech/equip.py`: a trained model gets what a search along words needs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from random_model import equal_words

from asr.checkpoint import DEFAULT_MODEL, MODEL_FILES, load_model, save_model
from asr.config import load_config
from asr.lm import CharNgramLM, Contexts
from asr.recurrent_lm import RecurrentWordLM

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "librispeech"))

import equip as script

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "librispeech"
CONFIGS = sorted((RECIPE / "configs").glob("*.toml"))


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Language models in three files, as options."""
    names = ("lm", "words", "recurrent")
    lm, words, recurrent = (tmp_path / f"{name}.safetensors" for name in names)
    alike = Contexts(
        torch.zeros(1, dtype=torch.long),
        torch.tensor([0b1111], dtype=torch.int32),
        torch.zeros(1, dtype=torch.uint8),
        torch.full((4,), 20, dtype=torch.uint8),
    )
    CharNgramLM(" act", [alike]).save(lm)
    equal_words(("act", "at")).save(words)
    RecurrentWordLM(("act", "at"), 4, 4).save(recurrent)
    return ["--lm", str(lm), "--word-lm", str(words), "--recurrent-lm", str(recurrent)]


@pytest.fixture
def trained(words_model_dir: Path, tmp_path: Path) -> Path:
    """A model that knows phones, as training writes it: no language model, greedy search."""
    bundle = load_model(words_model_dir)
    config = load_config(None, ["search.method=ctc"])
    config = type(config)(bundle.config.features, bundle.config.model, search=config.search)
    folder = tmp_path / "trained"
    save_model(
        folder, bundle.model, bundle.features, bundle.tokenizer, config, lexicon=bundle.lexicon
    )
    return folder


def test_a_model_with_phones_searches_words_as_the_shipped_one(
    trained: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    for name in ("lm.safetensors", "words.safetensors", "words.safetensors.tmp"):
        (trained / name).write_bytes(b"half of it")  # an earlier attempt was stopped
    assert load_model(trained, language_model=False).config.search.method == "ctc"
    assert script.main([str(trained), *options]) == 0
    assert "is searched along words" in capsys.readouterr().out
    bundle = load_model(trained)
    shipped = load_model(DEFAULT_MODEL, language_model=False).config.search
    assert bundle.config.search == shipped and shipped.method == "words"
    assert bundle.word_model is not None and bundle.word_model.words == ("act", "at")
    assert bundle.language_model is not None and bundle.word_decoder is not None
    assert bundle.recurrent_model is not None and bundle.recurrent_model.words == ("act", "at")
    assert (trained / "model.safetensors").read_bytes() == before
    files = {path: path.read_bytes() for path in trained.iterdir()}
    assert {path.name for path in files} == set(MODEL_FILES) - {"confidence.json"}
    assert script.main([str(trained), *options]) == 0  # once more is no more
    assert {path: path.read_bytes() for path in trained.iterdir()} == files


def test_a_model_without_phones_keeps_its_search(
    tiny_model_dir: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "plain"))
    (folder / "words.safetensors").write_bytes(b"of another model")
    assert script.main([str(folder), *options]) == 0
    assert "knows no phones" in capsys.readouterr().out
    assert (folder / "config.json").read_bytes() == (tiny_model_dir / "config.json").read_bytes()
    bundle = load_model(folder)
    assert bundle.word_decoder is None
    assert isinstance(bundle.language_model, CharNgramLM)


@pytest.mark.parametrize(
    "broken", ["lm.safetensors", "words.safetensors", "recurrent.safetensors", "trained"]
)
def test_errors_are_one_line_and_nothing_is_written(
    trained: Path,
    tmp_path: Path,
    options: list[str],
    broken: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if broken == "trained":
        (trained / "tokenizer.json").unlink()
    else:
        (tmp_path / broken).write_bytes(b"no language model")
    files = {path: path.read_bytes() for path in trained.iterdir()}
    capsys.readouterr()
    assert script.main([str(trained), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and broken in error
    assert {path: path.read_bytes() for path in trained.iterdir()} == files


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_learns_the_phones_of_the_shipped_lexicon(path: Path) -> None:
    config = load_config(path)
    assert REPOSITORY / config.data.lexicon == DEFAULT_MODEL / "lexicon.safetensors"
    assert config.train.phone_weight >= 1 and config.train.phone_loss == "crf"
