"""The learning rate's course, what decays, and the running average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asr.config import TrainConfig
from asr.optimize import learning_rate, make_optimizer, update_average


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
