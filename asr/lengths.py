"""Integer lengths that travel with padded tensors, and what they say about padding."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Return (B, max_length) booleans, True on the first ``lengths`` (B,) positions."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def reverse_by_length(x: Tensor, lengths: Tensor) -> Tensor:
    """Reverse (B, S, D) in time, each row within its own length; padding stays where it is."""
    positions = torch.arange(x.shape[1], device=x.device)[None, :]
    index = torch.where(positions < lengths[:, None], lengths[:, None] - 1 - positions, positions)
    return x.gather(1, index[:, :, None].expand_as(x))
