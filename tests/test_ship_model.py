"""`scripts/ship_model.py`: what it writes loads, says the same, and is small."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from random_model import equal_words
from safetensors.torch import load_file

from asr.checkpoint import build_model, load_model, save_model
from asr.config import Config, ModelConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import ship_model as script


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model with matrices large enough to be quantised."""
    torch.manual_seed(0)
    config = Config(model=ModelConfig(conv_channels=(8, 8), encoder_layers=1, encoder_width=64))
    save_model(tmp_path / "trained", *build_model(config), config)
    return tmp_path / "trained"


@pytest.mark.parametrize(("storage", "size"), [("int8", 0.27), ("fp16", 0.51)])
def test_what_is_shipped_loads(
    trained: Path, tmp_path: Path, storage: str, size: float, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shipped"
    output.mkdir()
    (output / "README.md").write_text("card", encoding="utf-8")
    (output / "confidence.json").write_text("of the old weights", encoding="utf-8")
    arguments = [str(trained), "--output-dir", str(output), "search.beam_size=3"]
    if storage != "int8":  # which is the default
        arguments += ["--storage", storage]
    assert script.main(arguments) == 0
    assert "MB, search" in capsys.readouterr().out
    assert (output / "README.md").read_text(encoding="utf-8") == "card"
    assert not (output / "confidence.json").exists()
    files = [folder / "model.safetensors" for folder in (trained, output)]
    assert files[1].stat().st_size < size * files[0].stat().st_size
    before, after = load_model(trained), load_model(output)
    assert after.config.search.beam_size == 3
    for name, weights in before.model.state_dict().items():
        found = after.model.state_dict()[name]
        assert found.dtype == torch.float32
        bound = 0.5 * weights.flatten(1).abs().max() / 127 if weights.ndim > 1 else 0.0
        torch.testing.assert_close(found, weights, atol=float(bound) + 1e-6, rtol=1e-3)
    features, lengths = torch.randn(2, 120, 80), torch.tensor([120, 77])
    with torch.inference_mode():
        outputs = [
            b.model.ctc_log_probs(b.model.encode(features, lengths))[0] for b in (before, after)
        ]
    torch.testing.assert_close(outputs[1], outputs[0], atol=0.05, rtol=0.05)


def test_shipping_the_shipped_model_changes_nothing(trained: Path, tmp_path: Path) -> None:
    folders = [trained, tmp_path / "once", tmp_path / "twice"]
    for source, target in pairwise(folders):
        assert script.main([str(source), "--output-dir", str(target)]) == 0
    once, twice = (load_file(folder / "model.safetensors") for folder in folders[1:])
    assert once.keys() == twice.keys()
    assert sum(weights.dtype == torch.int8 for weights in once.values()) > 5
    for name, weights in once.items():
        torch.testing.assert_close(twice[name], weights, msg=name)


def test_errors_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_model(trained)
    with torch.no_grad():
        bundle.model.decoder.attention.key.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"attention.key.weight: found NaN or infinite"):
        save_model(
            tmp_path / "bad", bundle.model, bundle.features, bundle.tokenizer, bundle.config,
            torch.int8,
        )  # fmt: skip
    assert not (tmp_path / "bad").exists()
    assert script.main([str(tmp_path / "none"), "--output-dir", str(tmp_path / "bad")]) == 2
    assert script.main([str(trained), "--output-dir", str(tmp_path / "bad"), "beam_sise=3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("ship_model: ") for line in lines)
    assert not (tmp_path / "bad").exists()


def test_lexicon_and_language_models_go_along(words_model_dir: Path, tmp_path: Path) -> None:
    assert script.main([str(words_model_dir), "--output-dir", str(tmp_path / "shipped")]) == 0
    before, after = load_model(words_model_dir), load_model(tmp_path / "shipped")
    assert before.word_model and after.word_model and before.lexicon and after.lexicon
    assert after.word_model.words == before.word_model.words
    assert after.lexicon.words == before.lexicon.words
    assert after.config.search.method == "words"


def test_another_language_model_of_words_is_taken(words_model_dir: Path, tmp_path: Path) -> None:
    other = equal_words(("act", "at"))
    other.save(tmp_path / "words.safetensors")
    arguments = [str(words_model_dir), "--output-dir", str(tmp_path / "shipped")]
    assert script.main([*arguments, "--word-lm", str(tmp_path / "words.safetensors")]) == 0
    found = load_model(tmp_path / "shipped").word_model
    assert found is not None and found.words == other.words


def test_a_network_without_phones_takes_the_place_of_one_with_them(
    trained: Path, words_model_dir: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "shipped")
    assert script.main([str(words_model_dir), "--output-dir", output]) == 0
    assert script.main([str(trained), "--output-dir", output]) == 0
    assert load_model(output).word_decoder is None


def test_the_mean_of_several_models(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [trained]
    for number in range(2):
        torch.manual_seed(1 + number)
        folders.append(tmp_path / f"other{number}")
        config = load_model(trained).config
        save_model(folders[-1], *build_model(config), config)
    output = tmp_path / "shipped"
    others = [f"--average={folder}" for folder in folders[1:]]
    arguments = [str(trained), *others, "--storage", "fp16", "--output-dir", str(output)]
    assert script.main(arguments) == 0
    states = [load_model(folder).model.state_dict() for folder in folders]
    for name, found in load_model(output).model.state_dict().items():
        mean = sum(state[name] for state in states) / 3
        torch.testing.assert_close(found, mean, atol=1e-3, rtol=1e-3)
    config = replace(config, model=replace(config.model, encoder_layers=2))
    save_model(folders[-1], *build_model(config), config)
    capsys.readouterr()
    before = (output / "model.safetensors").read_bytes()
    assert script.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "found model.encoder_layers=2" in error
    assert (output / "model.safetensors").read_bytes() == before


def test_the_mean_with_a_start_that_lacks_blocks(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_model(trained).config
    config = replace(config, model=replace(config.model, conv_blocks=(0, 1)))
    model, *rest = build_model(config)
    block = model.encoder.front_end.blocks[1][0]
    torch.nn.init.normal_(block.narrow.weight)
    save_model(tmp_path / "more", model, *rest, config)
    output = tmp_path / "shipped"
    ending = ["--storage", "fp16", "--output-dir", str(output)]
    assert script.main([str(tmp_path / "more"), f"--average={trained}", *ending]) == 0
    found = load_model(output).model.encoder.front_end.blocks[1][0]
    torch.testing.assert_close(found.widen.weight, block.widen.weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.narrow.weight, block.narrow.weight / 2, atol=1e-3, rtol=1e-3)
    capsys.readouterr()
    assert script.main([str(trained), f"--average={tmp_path / 'more'}", *ending]) == 2
    assert "found model.conv_blocks=" in capsys.readouterr().err
