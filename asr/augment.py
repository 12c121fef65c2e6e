"""Changes to training audio, on the device, drawn from a generator that the caller seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional
from torchaudio.functional import resample

from asr.config import AugmentConfig, FeatureConfig

TELEPHONE_BAND = (300.0, 3400.0)  # Hz
ROOM_SECONDS = (0.15, 0.7)  # in which an echo falls by 60 dB

LogMelFunction = Callable[
    [Tensor, Tensor, Callable[[Tensor, Tensor], Tensor] | None], tuple[Tensor, Tensor]
]


def augmented_features(
    log_mel: LogMelFunction,
    waveform: Tensor,
    num_samples: Tensor,
    config: AugmentConfig,
    settings: FeatureConfig,
    generator: random.Random,
) -> tuple[Tensor, Tensor]:
    """Turn waveforms into features with every change that is configured.

    Args:
        log_mel: `asr.features.LogMel`.
        waveform: (B, N), zero on padding.
        num_samples: (B,).
        config: The changes.
        settings: Of the features.
        generator: Source of chance.

    Returns:
        Features (B, T, F) and their lengths (B,) in frames.
    """
    waveform, num_samples = perturb_waveform(waveform, num_samples, config, generator)
    change = partial(perturb_power, config=config, settings=settings, generator=generator)
    features, lengths = log_mel(waveform, num_samples, change)
    frame_rate = 1 / settings.shift_seconds
    return spec_augment(features, lengths, config, generator, frame_rate), lengths


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


def perturb_power(
    power: Tensor,
    lengths: Tensor,
    config: AugmentConfig,
    settings: FeatureConfig,
    generator: random.Random,
) -> Tensor:
    """Change voices, add rooms and noise and cut the band of a batch, in the power of mel bands.

    There a noisy recording costs an addition, where a waveform would need transforms: the power
    of independent sounds adds up, but for their interference, which is left out.

    Args:
        power: (B, T, F) power in mel bands.
        lengths: (B,) frames.
        config: How much of each change, and how often.
        settings: Where the mel bands lie.
        generator: Source of chance.

    Returns:
        The changed power (B, T, F).
    """
    chance = torch.Generator(power.device).manual_seed(generator.getrandbits(60))
    centres = _mel_centres(settings, power.device)
    if config.frequency_warp:
        power = _warp_frequency(power, centres, config.frequency_warp, chance)
    if config.room_probability:
        power = power + _echo_power(power, 1 / settings.shift_seconds, config, chance)
    if config.noise_probability:
        power = power + _noise_power(power, lengths, centres, config, chance)
    if config.telephone_probability:
        chosen = _rand(chance, power, len(power)) < config.telephone_probability
        outside = (centres < TELEPHONE_BAND[0]) | (centres > TELEPHONE_BAND[1])
        power = power.masked_fill(chosen[:, None, None] & outside, 0.0)
    return power


@lru_cache(maxsize=4)  # a GPU would wait for them in every update
def _mel_centres(settings: FeatureConfig, device: torch.device) -> Tensor:
    """Return the centre of each mel band in Hz, on HTK's scale: (F,)."""
    edges = torch.tensor([settings.min_frequency, settings.max_frequency])
    low, high = (2595 * (1 + edges / 700).log10()).tolist()
    mels = torch.linspace(low, high, settings.num_mels + 2)[1:-1]
    return (700 * (10 ** (mels / 2595) - 1)).to(device)


def _rand(chance: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=chance, device=like.device)


def _warp_frequency(power: Tensor, centres: Tensor, warp: float, chance: torch.Generator) -> Tensor:
    """Stretch the frequency axis of each utterance by its own factor, as other throats would.

    Vocal tract length perturbation: Jaitly and Hinton, 2013, with one slope up to the last band.
    """
    factors = 1 + warp * (2 * _rand(chance, power, len(power)) - 1)  # (B,)
    wanted = torch.minimum(centres * factors[:, None], centres[-1])  # (B, F) Hz
    above = torch.searchsorted(centres, wanted).clamp(1, len(centres) - 1)
    left, right = centres[above - 1], centres[above]
    share = ((wanted - left) / (right - left)).clamp(min=0.0)[:, None]  # (B, 1, F)
    shape = (-1, power.shape[1], -1)
    low = power.gather(2, (above - 1)[:, None].expand(shape))
    return torch.lerp(low, power.gather(2, above[:, None].expand(shape)), share)


def _echo_power(
    power: Tensor, frames_per_second: float, config: AugmentConfig, chance: torch.Generator
) -> Tensor:
    """Return the diffuse echo (B, T, F) of some utterances, zero for the others.

    It falls by 60 dB in `ROOM_SECONDS`, and holds from a tenth to three times the power of the
    direct sound, as at a tenth to twice the distance at which both are equal.
    """
    shortest, longest = ROOM_SECONDS
    seconds = shortest + (longest - shortest) * _rand(chance, power, len(power), 1)
    ages = torch.arange(1, round(longest * frames_per_second) + 1, device=power.device)
    kernel = 10 ** (-6 * ages / (seconds * frames_per_second))  # (B, taps)
    share = 10 ** (-1 + 1.5 * _rand(chance, power, len(power), 1))
    chosen = _rand(chance, power, len(power), 1) < config.room_probability
    kernel = kernel / kernel.sum(dim=1, keepdim=True) * share * chosen
    # One convolution whose groups are the utterances; a frame's echo begins a frame later.
    delayed = functional.pad(power.transpose(0, 2), (0, 0, len(ages), -1))  # (F, T + taps - 1, B)
    echo = functional.conv1d(
        delayed.transpose(1, 2), kernel.flip(1)[:, None], groups=len(power)
    )  # (F, B, T)
    return echo.permute(1, 2, 0)


def _noise_power(
    power: Tensor,
    lengths: Tensor,
    centres: Tensor,
    config: AugmentConfig,
    chance: torch.Generator,
) -> Tensor:
    """Return noise (B, T, F) for some utterances, zero for the others.

    Half of it is steady with a slope between white and brown, half the voices of the utterance
    before in the batch.
    """
    batch, frames, bands = power.shape
    inside = torch.arange(frames, device=power.device) < lengths[:, None]  # (B, T)
    slope = 2 * _rand(chance, power, batch, 1)
    width = centres + 700  # of a mel band, but for a factor
    shape = (width / centres**slope)[:, None]  # (B, 1, F)
    # The power in a band of a few bins scatters as a chi-squared variable of few degrees.
    scatter = -_rand(chance, power, 2, batch, frames, bands).clamp(min=1e-9).log().mean(dim=0)
    steady = shape * scatter
    voices = power.roll(1, dims=0) if batch > 1 else steady
    noise = torch.where(_rand(chance, power, batch, 1, 1) < 0.5, steady, voices)
    low, high = config.noise_min_snr_db, config.noise_max_snr_db
    snr = low + (high - low) * _rand(chance, power, batch)
    chosen = _rand(chance, power, batch) < config.noise_probability
    level = (power.sum(dim=2) * inside).sum(dim=1)  # (B,)
    noise_level = (noise.sum(dim=2) * inside).sum(dim=1).clamp(min=1e-20)
    scale = chosen * level / noise_level / 10 ** (snr / 10)
    return noise * scale[:, None, None]


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
