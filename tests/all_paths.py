"""Small utterances whose every path and every text can be gone through."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

LABELS = 4
TEXTS = [[1, 2, 3], [1, 1, 2], [3, 2], [2]]


def weigh(text: tuple[int, ...] | list[int], trigram: Tensor) -> float:
    padded = (0, 0, *text, 0)
    weight = 1.0
    for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
        weight *= float(trigram[a, b, c])
    return weight


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for i, k in enumerate(path) if k and (i == 0 or path[i - 1] != k))


def sum_of_all_paths(log_probs: Tensor, trigram: Tensor) -> Tensor:
    """Return log Z of one utterance (S, V), path by path."""
    weights = []
    for path in itertools.product(range(LABELS), repeat=len(log_probs)):
        acoustic = torch.stack([log_probs[s, label] for s, label in enumerate(path)]).sum()
        weights.append(acoustic.exp() * weigh(collapse(path), trigram))
    return torch.stack(weights).sum().log()


def utterances() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 5, LABELS, dtype=torch.float64).log_softmax(2)
    return log_probs.requires_grad_(), torch.tensor([5, 3, 4])
