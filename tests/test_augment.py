"""Augmentation: what changes, what must not, and that the seed decides."""

from __future__ import annotations

import random

import pytest
import torch

from asr.augment import ROOM_SECONDS, TELEPHONE_BAND, perturb_power, perturb_waveform, spec_augment
from asr.config import AugmentConfig, FeatureConfig
from asr.features import LogMel


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


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(16000 * seconds)) / 16000)


def perturbed(power: torch.Tensor, seed: int = 0, **changes: float) -> torch.Tensor:
    lengths = torch.full((len(power),), power.shape[1])
    config = AugmentConfig(**changes)  # type: ignore[arg-type]
    return perturb_power(power, lengths, config, FeatureConfig(), random.Random(seed))


def test_power_stays_as_it_is_unless_configured() -> None:
    power = torch.rand(2, 50, 80)
    assert torch.equal(perturbed(power), power)


def test_warped_frequencies_are_those_of_a_tone_stretched_as_much() -> None:
    features = LogMel(FeatureConfig())
    power = features.mel_power(tone(1000)[None]).expand(30, -1, -1)
    warped = perturbed(power, frequency_warp=0.1)
    bands = warped.mean(dim=1).argmax(dim=1)
    # A factor between 0.9 and 1.1: tones from 1000/1.1 to 1000/0.9 Hz, and no others.
    limits = [
        int(features.mel_power(tone(hertz)[None]).mean(dim=1).argmax())
        for hertz in (1000 / 1.1, 1000 / 0.9)
    ]
    assert limits[0] <= bands.min() < bands.max() <= limits[1]
    assert bands.max() - bands.min() >= (limits[1] - limits[0]) * 0.7


@pytest.mark.parametrize("snr", [5.0, 20.0])
def test_noise_has_the_asked_level_against_the_utterance(snr: float) -> None:
    power = torch.rand(8, 200, 80) + 0.1
    noisy = perturbed(power, noise_probability=1.0, noise_min_snr_db=snr, noise_max_snr_db=snr)
    noise = (noisy - power).sum(dim=(1, 2))
    measured = 10 * (power.sum(dim=(1, 2)) / noise).log10()
    torch.testing.assert_close(measured, torch.full((8,), snr), atol=0.01, rtol=0)


def test_noise_comes_as_often_as_asked_and_steady_or_as_voices() -> None:
    power = torch.rand(400, 20, 80) + 0.1
    change = perturbed(power, noise_probability=0.3) - power
    noisy = change.sum(dim=(1, 2)) > 0
    assert 0.2 < noisy.float().mean() < 0.4
    neighbours = power.roll(1, dims=0)
    ratio = change / neighbours
    voices = noisy & (ratio.std(dim=(1, 2)) < 1e-3 * ratio.mean(dim=(1, 2)))
    assert 0.3 < (voices.sum() / noisy.sum()) < 0.7


def test_noise_of_an_utterance_alone_is_finite() -> None:
    assert perturbed(torch.zeros(1, 5, 80), noise_probability=1.0).isfinite().all()
    assert perturbed(torch.rand(1, 5, 80), noise_probability=1.0).isfinite().all()


def test_a_telephone_keeps_its_band_alone() -> None:
    features = LogMel(FeatureConfig())
    sounds = torch.stack([tone(120), tone(1000), tone(5000)])
    kept = perturbed(features.mel_power(sounds), telephone_probability=1.0).sum(dim=(1, 2))
    before = features.mel_power(sounds).sum(dim=(1, 2))
    low, speech, high = (kept / before).tolist()
    assert TELEPHONE_BAND == (300, 3400)
    assert low < 0.01 and high < 0.01 and speech > 0.99


def test_a_room_echoes_behind_each_sound_and_dies_away() -> None:
    power = torch.zeros(200, 150, 80)
    power[:, 20] = 1.0
    echo = perturbed(power, room_probability=1.0) - power
    assert echo[:, :21].abs().max() == 0  # nothing before, nor on top of the sound itself
    assert (echo[:, 21:80].diff(dim=1) <= 0).all()
    assert (echo == echo[:, :, :1]).all()  # all bands alike
    share = echo[:, :, 0].sum(dim=1)
    assert 0.1 <= share.min() < 0.2 and 2 < share.max() <= 10**0.5 + 1e-3
    # 60 dB in so many frames: what is left of the first echo a frame later.
    frames = -6 / (echo[:, 22, 0] / echo[:, 21, 0]).log10()
    assert frames.min() / 100 == pytest.approx(ROOM_SECONDS[0], abs=0.02)
    assert frames.max() / 100 == pytest.approx(ROOM_SECONDS[1], abs=0.02)


def test_rooms_are_each_utterances_own_and_as_frequent_as_asked() -> None:
    power = torch.rand(300, 30, 80)
    changed = (perturbed(power, room_probability=0.3) - power).abs().sum(dim=(1, 2)) > 1e-3
    assert 0.2 < changed.float().mean() < 0.4
    alone = torch.zeros(2, 30, 80)
    alone[0] = 1.0
    assert perturbed(alone, room_probability=1.0)[1].abs().max() == 0


def test_changes_of_power_are_seeded() -> None:
    power = torch.rand(4, 30, 80)
    every = {
        "frequency_warp": 0.1, "noise_probability": 0.5, "telephone_probability": 0.5,
        "room_probability": 0.5,
    }  # fmt: skip
    assert torch.equal(perturbed(power, 1, **every), perturbed(power, 1, **every))
    assert not torch.equal(perturbed(power, 1, **every), perturbed(power, 2, **every))
