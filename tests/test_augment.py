"""Augmentation: what changes, what must not, and that the seed decides."""

from __future__ import annotations

import random

import pytest
import torch

from asr.augment import perturb_waveform, spec_augment
from asr.config import AugmentConfig


def test_nothing_configured_changes_nothing() -> None:
    still = AugmentConfig((1.0,), gain_db=0, frequency_masks=0, time_masks=0)
    waveform, lengths = torch.randn(2, 1000), torch.tensor([1000, 800])
    changed, new_lengths = perturb_waveform(waveform, lengths, still, random.Random(0))
    assert torch.equal(changed, waveform) and torch.equal(new_lengths, lengths)
    features = torch.randn(2, 50, 80)
    kept = spec_augment(features, torch.tensor([50, 40]), still, random.Random(0), 100)
    assert torch.equal(kept, features)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_moves_the_pitch_and_the_length(factor: float) -> None:
    config = AugmentConfig((factor,), gain_db=0)
    time = torch.arange(16000) / 16000
    waveform = torch.sin(2 * torch.pi * 1000 * time)[None]
    changed, lengths = perturb_waveform(waveform, torch.tensor([16000]), config, random.Random(0))
    assert lengths.item() == pytest.approx(16000 / factor, abs=2)
    assert changed.shape[1] >= lengths.item()
    spectrum = torch.fft.rfft(changed[0, : lengths.item()]).abs()
    peak = spectrum.argmax().item() * 16000 / lengths.item()
    assert peak == pytest.approx(1000 * factor, abs=2)


def test_gain_stays_in_its_range_and_is_each_utterances_own() -> None:
    config = AugmentConfig((1.0,), gain_db=6)
    changed, _ = perturb_waveform(
        torch.ones(100, 4), torch.full((100,), 4), config, random.Random(0)
    )
    decibels = 20 * changed[:, 0].log10()
    assert decibels.abs().max() <= 6.001
    assert decibels.std() > 2


def test_masks_are_bounded_and_seeded() -> None:
    config = AugmentConfig(
        frequency_masks=1, frequency_mask_width=10, time_masks=1, time_mask_fraction=0.1
    )
    features, lengths = torch.ones(20, 200, 80), torch.full((20,), 200)
    masked = spec_augment(features, lengths, config, random.Random(3), 100)
    assert torch.equal(masked, spec_augment(features, lengths, config, random.Random(3), 100))
    assert not torch.equal(masked, spec_augment(features, lengths, config, random.Random(4), 100))
    hidden_bands = (masked == 0).all(dim=1).sum(dim=1)
    hidden_frames = (masked == 0).all(dim=2).sum(dim=1)
    assert 0 < hidden_bands.max() <= 10
    assert 0 < hidden_frames.max() <= 20


def test_shortest_utterance_survives() -> None:
    masked = spec_augment(
        torch.ones(1, 1, 80), torch.tensor([1]), AugmentConfig(), random.Random(0), 100
    )
    assert masked.shape == (1, 1, 80)
