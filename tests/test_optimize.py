"""The learning rate's course, what decays, and the running average."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asr.config import TrainConfig
from asr.optimize import (
    learning_rate,
    make_optimizer,
    orthogonalise,
    step_if_finite,
    update_average,
)


def test_learning_rate_warms_up_stays_and_falls() -> None:
    config = TrainConfig(max_steps=100, warmup_steps=10, decay_steps=20, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5) and rates[99] == pytest.approx(0.05)


def test_only_matrices_decay() -> None:
    layer = nn.Linear(3, 3)
    optimizer = make_optimizer(layer, TrainConfig(learning_rate=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    (layer.weight.sum() * 0 + layer.bias.sum() * 0).backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight, before["weight"] * 0.95)
    assert torch.equal(layer.bias, before["bias"])


def test_average_equals_its_recurrence() -> None:
    average, expected = [torch.zeros(1)], 0.0
    for count, value in enumerate([1.0, 5.0, -2.0, 3.0]):
        update_average(average, [torch.tensor([value])], count, decay=0.2)
        decay = min(0.2, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
    assert average[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(3, 20, 30), (3, 30, 20)])
def test_orthogonalised_matrices_stretch_nothing(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    moved = orthogonalise(matrices)
    assert moved.shape == shape
    values = torch.linalg.svdvals(moved)
    assert values[:, :-1].min() > 0.5 and values.max() < 1.3
    # The same singular vectors: what the matrix maps where it still does.
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(torch.diag_embed((u.mT @ moved @ v.mT).diagonal(dim1=1, dim2=2)),
                               u.mT @ moved @ v.mT, atol=2e-3, rtol=0)  # fmt: skip


class Speller(nn.Module):
    """A cell of each kind, a head, and a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lstm, self.gru = nn.LSTM(4, 5), nn.GRU(5, 6)
        self.head = nn.Linear(6, 2)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def loss(self) -> torch.Tensor:
        x = torch.randn(7, 1, 4, generator=torch.Generator().manual_seed(2))
        return (self.head(self.gru(self.lstm(x)[0])[0]) - torch.tensor([1.0, -1.0])).square().sum()


def take_steps(model: Speller, optimizer: torch.optim.Optimizer, count: int) -> float:
    for _ in range(count):
        loss = model.loss()
        loss.backward()
        step_if_finite(optimizer, nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.zero_grad()
    return model.loss().item()


def test_muon_moves_each_gate_of_the_cells_alone_and_adamw_the_rest() -> None:
    config = TrainConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.0)
    model = Speller()
    optimizer = make_optimizer(model, config)
    learned = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(learned) == len(set(learned)) == len(list(model.parameters())) - 1
    before = model.lstm.weight_ih_l0.detach().clone()
    by_adamw = make_optimizer(other := Speller(), TrainConfig(learning_rate=0.1, weight_decay=0.0))
    take_steps(model, optimizer, 1)
    take_steps(other, by_adamw, 1)
    for gate in (model.lstm.weight_ih_l0.detach() - before).split(5):
        # 0.1 · 0.2 · √5 in every direction, whatever the gradient's size
        assert torch.linalg.svdvals(gate) == pytest.approx(0.0447, rel=0.4)
    torch.testing.assert_close(model.head.weight, other.head.weight)
    torch.testing.assert_close(model.gru.bias_ih_l0, other.gru.bias_ih_l0)


def test_muon_learns() -> None:
    model = Speller()
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.02))
    before = model.loss().item()
    assert take_steps(model, optimizer, 60) < before / 10


def test_muon_leaves_out_updates_that_are_not_finite() -> None:
    model = Speller()
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.02))
    take_steps(model, optimizer, 2)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    for p in model.parameters():
        p.grad = torch.full_like(p, torch.nan)
    assert float(step_if_finite(optimizer, torch.tensor(torch.nan))) == 1
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    torch.testing.assert_close(optimizer.state_dict()["state"], state)


def test_muon_goes_on_from_its_state() -> None:
    config = TrainConfig(optimizer="muon", learning_rate=0.02)
    model, resumed = Speller(), Speller()
    optimizer = make_optimizer(model, config)
    take_steps(model, optimizer, 3)
    resumed.load_state_dict(model.state_dict())
    other = make_optimizer(resumed, config)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert take_steps(model, optimizer, 3) == take_steps(resumed, other, 3)
