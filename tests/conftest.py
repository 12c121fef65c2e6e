"""What several tests share: a handful of sounds that stand for words, and a network to match."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from random_model import save_random_model

from asr.checkpoint import ModelBundle, load_model
from asr.config import AugmentConfig, Config, DataConfig, ModelConfig, SearchConfig, TrainConfig
from asr.manifest import Utterance, write_manifest

REPOSITORY = Path(__file__).parents[1]
CORPORA = Path(os.environ.get("ASR_CORPORA", REPOSITORY.parent / "shared"))
TONES = {"a": 400.0, "b": 900.0, "c": 1700.0, "d": 3000.0}


def tone_waveform(text: str, seed: int = 0) -> np.ndarray:
    """Say each character as a 0.15 s tone of its own, in a little noise."""
    time = np.arange(2400) / 16000
    window = np.hanning(2400)
    parts = [np.sin(2 * np.pi * TONES[char] * time) * window for char in text]
    noise = np.random.default_rng(seed).normal(0, 0.01, 2400 * len(text))
    return (0.3 * np.concatenate(parts) + noise).astype(np.float32)


def make_tone_manifest(folder: Path, count: int, seed: int = 0) -> Path:
    """Write a corpus of tone words and return its manifest."""
    chance = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for index in range(count):
        text = "".join(chance.choice(list(TONES), size=chance.integers(3, 8)))
        path = folder / f"u{index}.wav"
        soundfile.write(path, tone_waveform(text, index), 16000)
        utterances.append(Utterance(str(path), 0.15 * len(text), text, "tones", f"u{index}"))
    write_manifest(folder / "tones.jsonl", utterances)
    return folder / "tones.jsonl"


def tiny_config(manifest: Path, output_dir: Path, **train: object) -> Config:
    """Return settings of a network that learns tone words in seconds."""
    settings = {
        "output_dir": str(output_dir), "device": "cpu", "threads": 1, "max_steps": 6,
        "warmup_steps": 5, "decay_steps": 10, "learning_rate": 3e-3, "log_every": 2,
        "validate_every": 1000, "ema_decay": 0.9, "checkpoint_minutes": 1000.0,
    }  # fmt: skip
    return Config(
        model=ModelConfig(
            conv_channels=(8, 8), encoder_layers=1, encoder_width=32, attention_width=32,
            attention_heads=2, embedding_width=16, decoder_width=32, encoder_dropout=0.1,
        ),
        augment=AugmentConfig(time_masks=1, frequency_masks=1),
        data=DataConfig((str(manifest),), (str(manifest),), alphabet="abcd", batch_seconds=8.0),
        train=replace(TrainConfig(), **{**settings, **train}),
        search=SearchConfig(beam_size=3),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tone_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tone_manifest(tmp_path_factory.mktemp("tones"), 40)


@pytest.fixture
def configure(tone_manifest: Path, tmp_path: Path) -> Callable[..., Config]:
    """Return a function that gives settings of a run in this test's own folder."""

    def make(name: str = "run", **train: object) -> Config:
        return tiny_config(tone_manifest, tmp_path / name, **train)

    return make


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory with random weights."""
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def words_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory with random weights that searches along words."""
    return save_random_model(tmp_path_factory.mktemp("models") / "words", words=True)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_model_dir: Path) -> ModelBundle:
    return load_model(tiny_model_dir)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Several threads on shared cores make small networks many times slower."""
    torch.set_num_threads(1)
