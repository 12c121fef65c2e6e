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
    batch, num_frames, num_mels = features.shape
    keep = torch.ones(batch, num_frames, num_mels, dtype=torch.bool)
    longest = round(config.time_mask_seconds * frames_per_second)
    for row, length in enumerate(feature_lengths.tolist()):
        for _ in range(config.frequency_masks):
            width = generator.randint(0, min(config.frequency_mask_width, num_mels))
            start = generator.randint(0, num_mels - width)
            keep[row, :, start : start + width] = False
        limit = min(longest, int(config.time_mask_fraction * length))
        for _ in range(config.time_masks):
            width = generator.randint(0, limit)
            start = generator.randint(0, length - width)
            keep[row, start : start + width] = False
    return features * keep.to(features.device)
