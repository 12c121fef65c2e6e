"""How weights move: the learning rate's course, AdamW and Muon, and the running average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr import distributed
from asr.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, a plateau, a linear fall to a hundredth."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.max_steps - step) / max(1, config.decay_steps)
    return config.learning_rate * warm * max(0.01, min(1.0, left))


class Muon(torch.optim.AdamW):
    """Muon for the matrices of recurrent layers, AdamW for all other weights.

    The mean of past gradients moves every singular direction of a matrix by the same amount
    (Jordan et al., "Muon: an optimizer for hidden layers", 2024), scaled so that AdamW's learning
    rate fits (Liu et al., "Muon is scalable for LLM training", 2025). Each gate of a cell is a
    matrix of its own. `torch.optim.Muon` takes a cell's gates as one matrix, which costs twice as
    much, knows no other weights, and does not leave out updates that are not finite. Processes
    share the work: all must have the same gradients.

    Args:
        groups: As of AdamW. In a group with ``blocks``, every weight (blocks · R, C) is as many
            matrices one above the other.
        dtype: Of the products.
        **options: As of AdamW.
    """

    momentum = 0.95

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **options: Any) -> None:
        super().__init__(groups, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make an update, unless ``found_inf`` is 1 (see `step_if_finite`)."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"] if "blocks" in group else ():
                if weight.grad is not None:
                    shapes.setdefault(weight.shape, []).append(weight)
            for weights in shapes.values():
                self._move(weights, group)
        super().step(closure)  # of the weights that still have a gradient

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights of one shape, and take their gradients away."""
        gradients, means = [], []
        for weight in weights:
            state = self.state[weight]
            if not state:  # named as AdamW's, which looks at them when they are loaded
                state["step"] = torch.zeros((), device=weight.device)
                state["exp_avg"] = torch.zeros_like(weight)
            assert weight.grad is not None
            gradients.append(weight.grad)
            means.append(state["exp_avg"])
            weight.grad = None
        # Where an update is left out, the gradients are not finite: none of them may get through.
        left_out = getattr(self, "found_inf", None)
        if left_out is None:
            left_out = torch.zeros((), device=weights[0].device)
        gradients = [g.where(left_out == 0, m) for g, m in zip(gradients, means, strict=True)]
        torch._foreach_lerp_(means, gradients, 1 - self.momentum)
        ahead = torch.stack(torch._foreach_lerp(gradients, means, self.momentum))
        rows, columns = weights[0].shape[0] // group["blocks"], weights[0].shape[1]
        moves = distributed.share(
            lambda matrices: orthogonalise(matrices.to(self.dtype)).to(ahead.dtype),
            ahead.view(-1, rows, columns),
        )
        rate = group["lr"] * (1 - left_out)
        moves = moves.reshape(ahead.shape) * (0.2 * math.sqrt(max(rows, columns)) * rate)
        torch._foreach_mul_(weights, 1 - group["weight_decay"] * rate)
        torch._foreach_sub_(weights, list(moves))


def orthogonalise(matrices: Tensor) -> Tensor:
    """Set the singular values of matrices (N, R, C) to about 1 (0.7 to 1.2), tiny ones excepted.

    Five Newton-Schulz steps with the coefficients of Jordan et al. (2024).
    """
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT.contiguous()
    norm = torch.linalg.matrix_norm(wide.float())[:, None, None]
    x: Tensor = wide / (norm + 1e-7).to(wide.dtype)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x if wide is matrices else x.mT


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return the optimizer of what is not frozen; biases and norms do not decay."""
    cells = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    gates = {p: p.shape[0] // cell.hidden_size for cell in cells for p in cell.parameters()}
    groups: dict[Any, dict[str, Any]] = {}
    for weight in model.parameters():
        if weight.requires_grad:
            matrix = weight.dim() > 1
            blocks = gates.get(weight, 0) if matrix and config.optimizer == "muon" else 0
            group: dict[str, Any] = {"weight_decay": config.weight_decay if matrix else 0.0}
            if blocks:
                group["blocks"] = blocks
            groups.setdefault((not matrix, blocks), {**group, "params": []})["params"].append(
                weight
            )
    options: dict[str, Any] = {
        "lr": config.learning_rate, "betas": (0.9, config.beta2), "fused": True,
    }  # fmt: skip
    if config.optimizer == "adamw":
        return torch.optim.AdamW(list(groups.values()), **options)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Muon(list(groups.values()), dtype, **options)


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
