"""`scripts/collect_heard.py`: what a model hears becomes a file for texts as if heard."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.checkpoint import load_model, save_model
from asr.heard import HeardPhones
from asr.manifest import Utterance, write_manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import collect_heard

TEXTS = ("cat at act", "ah tack", "act", "at at cat")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two seconds of noise a text, and a file that is none."""
    chance = np.random.default_rng(0)
    utterances = []
    for number, text in enumerate(TEXTS):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * chance.standard_normal(32000), 16000)
        utterances.append(Utterance(str(path), 2.0, text, id=f"u{number}"))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    utterances.append(Utterance(str(broken), 2.0, "cat", id="broken"))
    write_manifest(tmp_path / "m.jsonl", utterances)
    return tmp_path / "m.jsonl"


@pytest.fixture
def silent_model(words_model_dir: Path, tmp_path: Path) -> Path:
    """The random model, less sure that something is said all the time."""
    bundle = load_model(words_model_dir)
    assert bundle.model.phone_head is not None
    with torch.no_grad():
        bundle.model.phone_head.bias[0] += 6.0
    folder = tmp_path / "model"
    save_model(
        folder, bundle.model, bundle.features, bundle.tokenizer, bundle.config,
        lexicon=bundle.lexicon,
    )  # fmt: skip
    return folder


def test_what_a_model_hears_is_collected(
    manifest: Path, silent_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "heard.safetensors"
    arguments = [str(manifest), "--model", str(silent_model), "--threads", "1", "--output"]
    assert collect_heard.main([*arguments, str(output)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("left out: ") and captured.err.count("\n") == 1
    lexicon = load_model(silent_model).lexicon
    assert lexicon is not None
    heard = HeardPhones.load(output, lexicon.num_labels)
    assert captured.out.startswith(
        f"{output}: {len(heard.words)} words, {len(heard.phones)} phones"
    )
    assert set(heard.words) <= {word for text in TEXTS for word in text.split()}
    said = [lexicon.encode(word) for word in heard.words]
    assert heard.phones[heard.phones > 0].tolist() == [phone for one in said for phone in one]
    assert heard.probabilities.astype(float).sum(1) == pytest.approx(1.0, abs=0.01)
    again = tmp_path / "again.safetensors"
    assert collect_heard.main([*arguments, str(again)]) == 0
    assert again.read_bytes() == output.read_bytes()


def test_errors_are_one_line(
    manifest: Path,
    words_model_dir: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = str(tmp_path / "heard.safetensors")
    for arguments, message in (
        (["none.jsonl", "--model", str(words_model_dir)], "none.jsonl"),
        ([str(manifest), "--model", str(tiny_model_dir)], "found no phones"),
        ([str(manifest), "--model", str(tmp_path)], "model directory"),
    ):
        assert collect_heard.main([*arguments, "--output", output]) == 2
        error = capsys.readouterr().err
        assert error.startswith("collect_heard: ") and error.count("\n") == 1 and message in error
    assert not Path(output).exists()
