"""The network's first part: convolutions that make fewer frames of log-mel features."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from asr.config import ModelConfig
from asr.lengths import valid_mask


class FrontEnd(nn.Module):
    """Convolutions over time and frequency, each halving both (ceiling), with ReLU.

    Behind each of them stand as many residual blocks as `ModelConfig.conv_blocks` says.
    """

    def __init__(self, config: ModelConfig, num_mels: int) -> None:
        super().__init__()
        channels = (1, *config.conv_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)
            for before, after in pairwise(channels)
        )
        counts = config.conv_blocks or (0,) * len(self.convs)
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualConv(width) for _ in range(count))
            for width, count in zip(config.conv_channels, counts, strict=True)
        )
        bands = num_mels
        for _ in config.conv_channels:
            bands = self.output_lengths_of_one(bands)
        self.output_width = channels[-1] * bands
        self.norm = nn.LayerNorm(self.output_width)

    @staticmethod
    def output_lengths_of_one(length: Any) -> Any:
        """Return the length, or lengths, behind one convolution."""
        return (length + 1) // 2

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (B, T, F) into (B, S, C)."""
        x = features[:, None]  # (B, 1, T, F)
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x = conv(x).relu()
            lengths = self.output_lengths_of_one(lengths)
            # Zero again behind each end: the next convolution must see padding, not its bias.
            padding = ~valid_mask(lengths, x.shape[2])[:, None, :, None]
            x = x.masked_fill(padding, 0.0)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, padding)
        x = x.transpose(1, 2).flatten(2)  # (B, S, channels·bands)
        return self.norm(x), lengths


class ResidualConv(nn.Module):
    """Two convolutions, twice as wide between them, whose outcome is added to what they read.

    The second begins as zero: a new block changes nothing (Zhang, Dauphin and Ma, "Fixup
    initialization: residual learning without normalization", 2019).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(channels, 2 * channels, kernel_size=3, padding=1)
        self.narrow = nn.Conv2d(2 * channels, channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.narrow.weight)
        assert self.narrow.bias is not None
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Turn x (B, C, T, F) into the same shape; padding (B, 1, T, 1) stays zero."""
        wide = self.widen(x).relu().masked_fill(padding, 0.0)
        added: Tensor = self.narrow(wide)
        return x + added.masked_fill(padding, 0.0)
