"""Weights in eight bits: how far they move, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.quantize import (
    MIN_WEIGHTS,
    QuantizeError,
    dequantize,
    dequantize_rows,
    quantize,
    quantize_rows,
)


def random_weights(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return rows of very different size: one scale for all would lose the small ones."""
    generator = torch.Generator().manual_seed(seed)
    powers = torch.randint(-9, 9, (shape[0], *[1] * (len(shape) - 1)), generator=generator)
    return torch.randn(shape, generator=generator) * 10.0**powers


@given(st.integers(0, 2**31), st.sampled_from([(7, 30), (4, 3, 3, 3), (1, 1)]))
def test_no_weight_moves_by_more_than_half_a_step(seed: int, shape: tuple[int, ...]) -> None:
    weights = random_weights(seed, shape)
    values, scales = quantize_rows(weights)
    restored = dequantize_rows(values, scales)
    assert values.dtype == torch.int8 and restored.dtype == torch.float32
    assert restored.shape == weights.shape and scales.shape == shape[:1]
    for row, found in zip(weights.flatten(1), restored.flatten(1), strict=True):
        step = row.abs().max() / 127
        assert (found - row).abs().max() <= step / 2 * 1.001
        assert len((found / step).round().unique()) == len(found.unique()) <= 255
    again = quantize_rows(restored)
    assert torch.equal(again[0], values)
    torch.testing.assert_close(again[1], scales)


def test_zeros_stay_zeros() -> None:
    weights = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [2.0, -2.0]])
    restored = dequantize_rows(*quantize_rows(weights))
    torch.testing.assert_close(restored, weights, rtol=1e-6, atol=1e-38)


def test_only_large_matrices_are_quantised() -> None:
    side = int(MIN_WEIGHTS**0.5)
    tensors = {
        "large": torch.randn(side, side),
        "small": torch.randn(side - 1, side),
        "bias": torch.randn(MIN_WEIGHTS),
        "count": torch.ones(side, side, dtype=torch.int64),
    }
    stored = quantize(tensors)
    assert sorted(stored) == ["bias", "count", "large", "large.scale", "small"]
    assert stored["large"].dtype == torch.int8 and stored["large.scale"].dtype == torch.float32
    restored = dequantize(stored)
    assert list(restored) == list(tensors)
    for name in ("small", "bias", "count"):
        assert restored[name] is tensors[name]
    assert dequantize(tensors) == tensors  # files of before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_integers_would_hide_is_refused(value: float) -> None:
    weights = torch.zeros(MIN_WEIGHTS, 1)
    weights[3] = value
    with pytest.raises(QuantizeError, match="layer: found NaN or infinite weights"):
        quantize({"layer": weights})


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (None, r"w: found int8 weights, wanted w\.scale as well"),
        (torch.ones(3), r"w\.scale: found shape \(3,\) for weights of shape \(2, 5\), wanted one"),
        (torch.ones(2, 1), r"w\.scale: found shape \(2, 1\)"),
        (torch.ones(2, dtype=torch.int32), r"w\.scale: wanted finite numbers above 0"),
        (torch.tensor([1.0, float("nan")]), r"w\.scale: wanted finite numbers above 0"),
        (torch.tensor([1.0, 0.0]), r"w\.scale: wanted finite numbers above 0"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scales: torch.Tensor | None, message: str) -> None:
    stored = {"w": torch.ones(2, 5, dtype=torch.int8)}
    if scales is not None:
        stored["w.scale"] = scales
    with pytest.raises(QuantizeError, match=message):
        dequantize(stored)


def test_integers_that_are_no_matrix_are_refused() -> None:
    stored = {"b": torch.ones(4, dtype=torch.int8), "b.scale": torch.ones(4)}
    with pytest.raises(QuantizeError, match="one scale for each row of a matrix"):
        dequantize(stored)
