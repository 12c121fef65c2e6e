"""A network too small to be slow and too random to be right, for tests of what is around it."""

from pathlib import Path

import numpy as np
import torch

from asr.checkpoint import build_model, save_model
from asr.config import Config, FeatureConfig, ModelConfig, SearchConfig
from asr.heard import HeardPhones, HeardRecording
from asr.lexicon import Lexicon
from asr.word_lm import NO_BACKOFF, WordNgramLM, WordTables

OF_WORDS = SearchConfig(method="words", beam_size=20, blank_penalty=5.0)
WORDS = {"ah": [1], "cat": [2, 1, 3], "tack": [3, 1, 2], "at": [1, 3], "act": [1, 2, 3]}


def save_random_model(directory: Path, words: bool = False) -> Path:
    """Write a model directory of a few thousand random weights, always the same.

    With ``words``, it has phones, a lexicon and a language model of five words, and searches along
    them.
    """
    torch.manual_seed(0)
    lexicon = Lexicon.fit(("a", "k", "t"), WORDS) if words else None
    config = Config(
        features=FeatureConfig(num_mels=20),
        model=ModelConfig(
            conv_channels=(4, 4),
            encoder_layers=1,
            encoder_width=16,
            attention_width=8,
            attention_heads=2,
            embedding_width=8,
            decoder_width=16,
            phone_labels=lexicon.num_labels if lexicon else 0,
        ),
        search=OF_WORDS if words else SearchConfig(method="ctc", beam_size=2),
    )
    model, features, tokenizer = build_model(config)
    with torch.no_grad():  # a fresh network is sure of nothing; let this one say something
        for weights in model.parameters():
            weights.mul_(3.0)
    save_model(
        directory, model, features, tokenizer, config, lexicon=lexicon,
        word_model=equal_words(tuple(WORDS)) if words else None,
    )  # fmt: skip
    return directory


def equal_words(words: tuple[str, ...]) -> WordNgramLM:
    """Return a language model to which all words are equally likely."""
    size = len(words) + 4
    tables = WordTables(
        np.log(np.full(size, 0.1, dtype=np.float32)),
        np.arange(size, dtype=np.int32),
        np.zeros(size, dtype=np.uint8),
        np.full(size + 1, size, dtype=np.int32),
        np.full(size, NO_BACKOFF, dtype=np.uint8),
    )
    return WordNgramLM(words, tables)


def heard_words(lexicon: Lexicon, texts: list[str], seed: int = 0) -> HeardPhones:
    """Return texts as a recogniser hears them that is right in seven phones of eight."""
    chance = np.random.default_rng(seed)
    recordings = []
    for text in texts:
        words = [(lexicon.pronounce(word), word) for word in text.split()]
        path = [0, 0]
        for phones, _ in words:
            for phone in phones:
                path += [0] * (path[-1] == phone) + [phone] * int(chance.integers(1, 3))
                path += [0] * int(chance.integers(0, 2))
        labels = np.array([*path, 0, 0], np.int64)
        seen = np.where(
            chance.random(len(labels)) < 1 / 8, chance.integers(lexicon.num_labels), labels
        )
        rows = np.full((len(labels), lexicon.num_labels), 0.2 / lexicon.num_labels)
        rows[np.arange(len(labels)), seen] += 0.8
        recordings.append(HeardRecording(rows.astype(np.float16), labels, words))
    return HeardPhones.collect(recordings)
