"""Validation: every method, from one pass through the encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_config

from asr.checkpoint import build_model
from asr.model import SpeechModel
from asr.validate import load_dev_set, validate


def test_methods_share_the_encoder(
    tone_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = tiny_config(tone_manifest, tmp_path)
    model, features, tokenizer = build_model(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    model.train()  # with dropout, which must be off while it is judged
    dev_set = load_dev_set(replace(config.data, dev_utterances=12), tokenizer, 16000)
    encoded: list[bool] = []
    encode = SpeechModel.encode

    def count(self: SpeechModel, *arguments: torch.Tensor) -> object:
        encoded.append(self.training)
        return encode(self, *arguments)

    monkeypatch.setattr(SpeechModel, "encode", count)
    device = torch.device("cpu")
    both = validate(model, features, dev_set, ["ctc", "greedy"], device)
    assert encoded == [False] and model.training
    for method in ("ctc", "greedy"):
        alone = validate(model, features, dev_set, [method], device)
        assert {key: both[key] for key in alone} == alone
        assert both["utterances"] == 12 and any(text for _, _, text in both[f"examples_{method}"])
