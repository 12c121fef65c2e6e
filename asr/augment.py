"""Changes to training audio, on the device, drawn from a generator that the caller seeds."""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torchaudio.functional import resample

from asr.config import AugmentConfig


def perturb_waveform(
    waveform: Tensor, num_samples: Tensor, config: AugmentConfig, generator: random.Random
) -> tuple[Tensor, Tensor]:
    """Change speed (with pitch) and loudness of a batch.

    Speed perturbation: Ko et al., "Audio augmentation for speech recognition", 2015. One factor
    is drawn for the whole batch, one gain for each utterance.

    Args:
        waveform: (B, N), zero on padding.
        num_samples: (B,).
        config: Factors and gain in dB.
        generator: Source of chance.

    Returns:
        The changed (B, N') waveform and (B,) lengths.
    """
    factor = generator.choice(config.speed_factors) if config.speed_factors else 1.0
    if factor != 1.0:
        # Played at `factor` times the speed: as if sampled at 100·factor, brought to 100.
        waveform = resample(waveform, round(100 * factor), 100)
        num_samples = (num_samples / factor).long().clamp(max=waveform.shape[1])
    if config.gain_db:
        gains = [generator.uniform(-config.gain_db, config.gain_db) for _ in range(len(waveform))]
        scale = torch.tensor([10 ** (gain / 20) for gain in gains], device=waveform.device)
        waveform = waveform * scale[:, None]
    return waveform, num_samples


def spec_augment(
    features: Tensor,
    feature_lengths: Tensor,
    config: AugmentConfig,
    generator: random.Random,
    frames_per_second: float,
) -> Tensor:
    """Set random bands of mel channels and spans of time to zero, the training mean.

    SpecAugment: Park et al., 2019, without time warping.

    Args:
        features: (B, T, F) normalised features.
        feature_lengths: (B,) frames.
        config: Number and width of masks.
        generator: Source of chance.
        frames_per_second: Frame rate of the features.

    Returns:
        Masked features (B, T, F).
    """
    # Drawn on the device: a GPU computes on while the CPU prepares the next step.
    chance = torch.Generator(features.device).manual_seed(generator.getrandbits(60))
    _, num_frames, num_mels = features.shape
    bands = torch.full_like(feature_lengths, num_mels)
    widest = bands.clamp(max=config.frequency_mask_width)
    in_band = _random_spans(bands, widest, config.frequency_masks, num_mels, chance)
    longest = round(config.time_mask_seconds * frames_per_second)
    limits = (config.time_mask_fraction * feature_lengths).long().clamp(max=longest)
    in_time = _random_spans(feature_lengths, limits, config.time_masks, num_frames, chance)
    return features.masked_fill(in_time[:, :, None] | in_band[:, None, :], 0.0)


def _random_spans(
    lengths: Tensor, limits: Tensor, count: int, size: int, generator: torch.Generator
) -> Tensor:
    """Return (B, size) booleans, True in ``count`` spans of at most ``limits`` (B,)."""
    draws = torch.rand(2, len(lengths), count, generator=generator, device=lengths.device)
    limits, lengths = limits[:, None], lengths[:, None]  # (B, 1)
    widths = torch.minimum((draws[0] * (limits + 1)).long(), limits)  # (B, count)
    starts = torch.minimum((draws[1] * (lengths - widths + 1)).long(), lengths - widths)
    places = torch.arange(size, device=lengths.device)  # (size,)
    inside = (places >= starts[:, :, None]) & (places < (starts + widths)[:, :, None])
    return inside.any(dim=1)
