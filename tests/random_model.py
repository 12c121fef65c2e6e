"""A network too small to be slow and too random to be right, for tests of what is around it."""

from pathlib import Path

import torch

from asr.checkpoint import build_model, save_model
from asr.config import Config, FeatureConfig, ModelConfig, SearchConfig


def save_random_model(directory: Path) -> Path:
    """Write a model directory of a few thousand random weights, always the same."""
    torch.manual_seed(0)
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
        ),
        search=SearchConfig(method="ctc", beam_size=2),
    )
    model, features, tokenizer = build_model(config)
    with torch.no_grad():  # a fresh network is sure of nothing; let this one say something
        for weights in model.parameters():
            weights.mul_(3.0)
    save_model(directory, model, features, tokenizer, config)
    return directory
