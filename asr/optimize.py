"""How weights move: the learning rate's course, AdamW, and the running average of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, a plateau, a linear fall to a hundredth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.max_steps - step) / max(1, config.decay_steps)
    return config.learning_rate * warm * max(0.01, min(1.0, left))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW of what is not frozen, in which biases and norms do not decay."""
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices: list[Tensor] = [p for p in learned if p.dim() > 1]
    vectors: list[Tensor] = [p for p in learned if p.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (0.9, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def step_if_finite(optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> Tensor:
    """Make an update, unless the gradients are not finite; return 1 if it was left out, 0 if not.

    The decision is made where the gradients are, so that the CPU does not wait for a GPU: fused
    optimizers leave an update out where ``found_inf`` is 1, which is how gradient scaling for half
    precision tells them.
    """
    skipped = (~torch.isfinite(gradient_norm)).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    return skipped


def update_average(
    average: Sequence[Tensor], current: Sequence[Tensor], step: int, decay: float
) -> None:
    """Move averaged weights towards the current ones, faster in a run's first steps."""
    torch._foreach_lerp_(list(average), list(current), 1 - min(decay, (1 + step) / (10 + step)))
