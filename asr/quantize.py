"""Weights in eight bits on disk: a quarter of float32, and computed with in float32 as before.

Each row of a matrix (each output of a layer) is stored as integers from -127 to 127 and one
float32 scale, `name` and `name.scale`. The largest weight of a row sets its scale: searching for
the scale of least squared error changed the error of our networks by less than a hundredth of
itself, and with the largest weight, quantising again changes nothing. Vectors and small matrices
are a hundredth of the file and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE_SUFFIX = ".scale"
MIN_WEIGHTS = 4096  # of a matrix that is quantised
_LARGEST = 127  # symmetric: -128 is left out


class QuantizeError(ValueError):
    """Quantised weights lack their scales, or the two do not fit each other."""


def quantize_rows(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to eight bits, each row to multiples of its own scale.

    No weight changes by more than half a scale, 1/254 of the largest of its row.

    Args:
        weights: (R, …) finite floats.

    Returns:
        (R, …) int8 in -127..127, and (R,) float32 scales.
    """
    rows = weights.detach().float().flatten(1)
    # A row of zeros, or of what float32 cannot divide, has any scale.
    scales = (rows.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    values = (rows / scales[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return values.to(torch.int8).view(weights.shape), scales


def dequantize_rows(values: Tensor, scales: Tensor) -> Tensor:
    """Return (R, …) float32 weights of (R, …) int8 and (R,) scales."""
    return values.float() * scales.float().view(-1, *[1] * (values.ndim - 1))


def quantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in which large float matrices are int8, each beside its `name.scale`.

    Raises:
        QuantizeError: Weights are NaN or infinite: integers would hide it.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.numel() < MIN_WEIGHTS or not tensor.is_floating_point():
            stored[name] = tensor
            continue
        if not torch.isfinite(tensor).all():
            raise QuantizeError(f"{name}: found NaN or infinite weights")
        stored[name], stored[name + SCALE_SUFFIX] = quantize_rows(tensor)
    return stored


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize`; tensors of other types than int8 pass as they are.

    Raises:
        QuantizeError: A scale is missing, has another shape or is no positive number. A scale
            of weights that are not int8 passes as a tensor of its own.
    """
    tensors = dict(stored)
    for name, values in stored.items():
        if values.dtype != torch.int8:
            continue
        scales = tensors.pop(name + SCALE_SUFFIX, None)
        if scales is None:
            raise QuantizeError(f"{name}: found int8 weights, wanted {name}{SCALE_SUFFIX} as well")
        if values.ndim < 2 or scales.shape != values.shape[:1]:
            raise QuantizeError(
                f"{name}{SCALE_SUFFIX}: found shape {tuple(scales.shape)} for weights of shape "
                f"{tuple(values.shape)}, wanted one scale for each row of a matrix"
            )
        if not scales.is_floating_point() or not ((scales > 0) & scales.isfinite()).all():
            raise QuantizeError(f"{name}{SCALE_SUFFIX}: wanted finite numbers above 0")
        tensors[name] = dequantize_rows(values, scales)
    return tensors
