"""Log-mel features, on any device, for a batch of waveforms of different lengths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks

from asr.config import FeatureConfig
from asr.lengths import valid_mask


class LogMel(nn.Module):
    """Waveforms to normalised log-mel features.

    Frames are centred on multiples of the shift, with zeros outside the recording, so that the
    frames of an utterance do not depend on how much padding follows it. ``mean`` and ``std``
    are the training set's, kept with the model's weights.

    Args:
        config: Window, shift and mel bands.
    """

    mean: Tensor  # (F,)
    std: Tensor  # (F,)
    window: Tensor
    mel_filters: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.hop = round(config.shift_seconds * config.sample_rate)
        self.window_length = round(config.window_seconds * config.sample_rate)
        if self.window_length > config.n_fft:
            raise ValueError(
                f"features.n_fft: found {config.n_fft}, wanted at least the window's "
                f"{self.window_length} samples"
            )
        filters = melscale_fbanks(
            config.n_fft // 2 + 1, config.min_frequency, config.max_frequency,
            config.num_mels, config.sample_rate, norm=None, mel_scale="htk",
        )  # fmt: skip
        self.register_buffer("window", torch.hann_window(self.window_length), persistent=False)
        self.register_buffer("mel_filters", filters, persistent=False)  # (n_fft/2+1, F)
        self.register_buffer("mean", torch.zeros(config.num_mels))
        self.register_buffer("std", torch.ones(config.num_mels))

    def feature_lengths(self, num_samples: Tensor) -> Tensor:
        """Return the number of frames (B,) of waveforms of ``num_samples`` (B,)."""
        return num_samples // self.hop + 1

    def mel_power(self, waveform: Tensor) -> Tensor:
        """Return the power in each mel band (B, T, F) of waveforms (B, N)."""
        pad = self.config.n_fft // 2
        spectrum = torch.stft(
            nn.functional.pad(waveform.float(), (pad, pad)), self.config.n_fft, self.hop,
            self.window_length, self.window, center=False, return_complex=True,
        )  # fmt: skip
        power = spectrum.real.square() + spectrum.imag.square()  # (B, n_fft/2+1, T)
        return power.transpose(1, 2) @ self.mel_filters  # (B, T, F)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Return natural-log mel power (B, T, F), not normalised, of waveforms (B, N)."""
        return self.mel_power(waveform).clamp(min=self.config.log_floor).log()

    def forward(
        self,
        waveform: Tensor,
        num_samples: Tensor,
        change: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Turn waveforms into features.

        Args:
            waveform: (B, N) float in −1..1, zero behind each waveform's own end.
            num_samples: (B,) samples of each waveform.
            change: Augmentation of mel power (B, T, F), given the lengths (B,) in frames too.

        Returns:
            Normalised features (B, T, F), zero on padding, and their lengths (B,) in frames.
        """
        lengths = self.feature_lengths(num_samples)
        power = self.mel_power(waveform)
        if change is not None:
            power = change(power, lengths)
        features = power.clamp(min=self.config.log_floor).log()
        mask = valid_mask(lengths, features.shape[1])[:, :, None]
        if self.config.utterance_mean:
            total = (features * mask).sum(dim=1, keepdim=True)
            features = features - total / lengths[:, None, None]
        features = (features - self.mean) / self.std
        return features * mask, lengths

    @torch.no_grad()
    def fit(self, waveforms: list[Tensor]) -> None:
        """Set mean and standard deviation (F,) from training waveforms, each (N,)."""
        self.mean.zero_()
        self.std.fill_(1.0)
        frames = torch.cat(
            [self(w[None], torch.tensor([w.numel()], device=w.device))[0][0] for w in waveforms]
        )
        self.mean.copy_(frames.mean(dim=0))
        self.std.copy_(frames.std(dim=0).clamp(min=1e-3))
