"""The GRU of training on a CPU is PyTorch's: the same states and the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asr.gru import GRU


def pair() -> tuple[GRU, nn.GRU]:
    torch.manual_seed(1)
    ours, theirs = GRU(5, 7), nn.GRU(5, 7, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return ours.double(), theirs.double()


def outcome(cell: nn.Module, x: Tensor, hidden: Tensor | None) -> list[Tensor]:
    """Return states, and the gradients of a loss that weighs every one of them and the last."""
    inputs = [x.clone().requires_grad_()]
    if hidden is not None:
        inputs.append(hidden.clone().requires_grad_())
    output, last = cell(*inputs)
    weigh = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    loss = (output * weigh).sum() + (last * last).sum()
    gradients = torch.autograd.grad(loss, [*inputs, *cell.parameters()])
    return [output, last, *gradients]


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("begun", [True, False])
def test_states_and_gradients(steps: int, begun: bool) -> None:
    ours, theirs = pair()
    x = torch.randn(3, steps, 5, dtype=torch.float64)
    hidden = torch.randn(1, 3, 7, dtype=torch.float64) if begun else None
    found, wanted = outcome(ours, x, hidden), outcome(theirs, x, hidden)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_without_gradients_it_is_pytorchs() -> None:
    ours, theirs = pair()
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(ours(x), theirs(x), strict=True):
            assert torch.equal(one, other)


def test_half_precision_goes_in_and_out() -> None:
    cell = GRU(5, 7)
    x = torch.randn(2, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        output, last = cell(x)
    assert output.dtype == last.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), cell(x)[0], atol=0.03, rtol=0.1)
    output.float().sum().backward()
    assert cell.weight_hh_l0.grad.dtype == torch.float32
