"""All texts that CTC and a trigram of labels know of a recording, summed: a hidden Markov model.

A state is the last two labels (prev, cur) and whether the frame emits `cur` or the blank. All
states of a frame are one tensor (V of cur, B, 2, V of prev), so that a frame is one batched
product; sums are of probabilities, divided by their total in every frame (Rabiner, "A tutorial on
hidden Markov models", 1989). Label 0 is the blank; no text holds it, so that in trigrams it stands
for the edge of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from asr.lengths import valid_mask

Array = NDArray[np.float32]

_LEAST = 1e-6  # probability of a label or state that is looked at
_DISCOUNT = 0.7  # taken from every count, for the labels that a history was not seen with


def label_trigram(texts: Iterable[Sequence[int]], num_labels: int) -> Tensor:
    """Count a trigram of labels, interpolated by absolute discounting.

    Args:
        texts: Label ids, 1 to num_labels - 1, of each text.
        num_labels: V, blank included.

    Returns:
        (V, V, V): probability of the third label behind the first two; 0 is the edge of a text,
        before its first label and behind its last.
    """
    shape = (num_labels,) * 3
    keys: list[int] = []
    for text in texts:
        padded = (0, 0, *text, 0)
        for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
            keys.append((a * num_labels + b) * num_labels + c)
    counts = torch.bincount(torch.tensor(keys, dtype=torch.long), minlength=num_labels**3)
    counts = counts.view(shape).double()
    lower = torch.full((num_labels,), 1 / num_labels, dtype=torch.float64)
    for table in (counts.sum((0, 1)), counts.sum(0), counts):
        total = table.sum(-1, keepdim=True)
        left = _DISCOUNT * (table > 0).sum(-1, keepdim=True)
        seen = ((table - _DISCOUNT).clamp(min=0) + left * lower) / total.clamp(min=1)
        lower = torch.where(total > 0, seen, lower)
    return lower.float()


def label_posteriors(log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
    """Return how likely each label is in each frame when whole texts are weighed.

    Args:
        log_probs: (B, S, V) log-probabilities of the labels by themselves, label 0 the blank.
        lengths: (B,) frames of each utterance.
        trigram: (V, V, V) of `label_trigram`.

    Returns:
        (B, S, V) probabilities, zero on padding.
    """
    if log_probs.device.type == "cpu":
        rows = log_probs.detach().float().exp().numpy()
        table = trigram.float().numpy()
        found = np.zeros_like(rows)
        for row, length, into in zip(rows, lengths.tolist(), found, strict=True):
            into[:length] = _occupation_of_one(row[:length], table, _states(row[:length], table))
        return torch.from_numpy(found)
    with torch.autocast(log_probs.device.type, enabled=False):
        return sum_paths(log_probs.detach().float(), lengths, trigram, occupied=True)[1]


@njit(cache=True, nogil=True)
def _states(emission: Array, trigram: Array) -> Array:
    """Return the share of each state (S + 1, V of prev, V of cur, 2) before the rest is heard.

    What is less likely than `_LEAST` is passed over, labels in a frame and states among all, which
    makes one utterance (S, V) six to nine times as fast as `sum_paths`.
    """
    frames, labels = emission.shape
    state = np.zeros((frames + 1, labels, labels, 2), np.float32)  # prev, cur, label or blank
    state[0, 0, 0, 1] = 1.0
    for frame in range(frames):
        before, new, emitted = state[frame], state[frame + 1], emission[frame]
        likely = np.flatnonzero(emitted[1:] > _LEAST) + 1
        total = 0.0
        for prev in range(labels):
            for cur in range(labels):
                said, quiet = before[prev, cur]
                both = said + quiet
                if both < _LEAST:
                    continue
                new[prev, cur, 1] += both * emitted[0]
                new[prev, cur, 0] += said * emitted[cur]
                total += both * emitted[0] + said * emitted[cur]
                for label in likely:
                    mass = quiet if label == cur else both
                    mass *= trigram[prev, cur, label] * emitted[label]
                    new[cur, label, 0] += mass
                    total += mass
        new /= np.float32(total)
    return state


@njit(cache=True, nogil=True)
def _occupation_of_one(emission: Array, trigram: Array, state: Array) -> Array:
    """Return the occupation (S, V) of one utterance from its states."""
    frames, labels = emission.shape
    occupation = np.zeros((frames, labels), np.float32)
    after = np.zeros((labels, labels, 2), np.float32)
    for prev in range(labels):
        for cur in range(labels):
            after[prev, cur] = trigram[prev, cur, 0]
    for frame in range(frames - 1, -1, -1):
        here, emitted = state[frame + 1], emission[frame]
        for prev in range(labels):
            for cur in range(labels):
                occupation[frame, cur] += here[prev, cur, 0] * after[prev, cur, 0]
                occupation[frame, 0] += here[prev, cur, 1] * after[prev, cur, 1]
        occupation[frame] /= occupation[frame].sum()
        likely = np.flatnonzero(emitted[1:] > _LEAST) + 1
        behind = np.zeros_like(after)
        total = 0.0
        for prev in range(labels):
            for cur in range(labels):
                said, quiet = state[frame, prev, cur]
                if said + quiet < _LEAST:
                    continue
                on = emitted[0] * after[prev, cur, 1]
                for label in likely:
                    if label != cur:
                        on += trigram[prev, cur, label] * emitted[label] * after[cur, label, 0]
                again = trigram[prev, cur, cur] * emitted[cur] * after[cur, cur, 0]
                behind[prev, cur, 0] = on + emitted[cur] * after[prev, cur, 0]
                behind[prev, cur, 1] = on + (again if cur else 0.0)
                total += said * behind[prev, cur, 0] + quiet * behind[prev, cur, 1]
        after = behind / np.float32(total)
    return occupation


def sum_paths(
    log_probs: Tensor, lengths: Tensor, trigram: Tensor, occupied: bool
) -> tuple[Tensor, Tensor]:
    """Return the sum of P_ctc · P_trigram over all texts, and how often each label was passed.

    Args:
        log_probs: (B, S, V) float32, without a gradient.
        lengths: (B,).
        trigram: (V, V, V).
        occupied: Whether the second is wanted; it takes as long again.

    Returns:
        (B,) natural logs, and (B, S, V) probabilities of labels, zero on padding, or nothing.
    """
    batch, frames, labels = log_probs.shape
    arcs = _arcs(trigram)
    emission = log_probs.exp().permute(1, 2, 0).contiguous()  # (S, V, B)
    real = valid_mask(lengths, frames)  # (B, S)
    state = emission.new_zeros(labels, batch, 2, labels)
    state[0, :, 1, 0] = 1.0  # nothing said yet
    states, log_total = [], emission.new_zeros(batch)
    for frame, here in zip(emission, real.unbind(1), strict=True):
        arriving = torch.bmm(state.flatten(2), arcs).permute(2, 1, 0)  # (V of cur, B, V)
        said = (arriving + state[:, :, 0]) * frame[:, :, None]
        quiet = (state[:, :, 0] + state[:, :, 1]) * frame[0][None, :, None]
        new = torch.stack([said, quiet], 2)
        scale = new.sum((0, 2, 3))
        new /= scale[None, :, None, None]
        log_total += scale.log() * here
        state = torch.where(here[None, :, None, None], new, state)
        states.append(state)
    ends = trigram[:, :, 0].t()[:, None, None, :]  # (V of cur, 1, 1, V of prev)
    log_total += (state * ends).sum((0, 2, 3)).log()
    if not occupied:
        return log_total, log_probs.new_zeros(0)
    return log_total, _occupation(states, emission, real, ends, arcs)


def _arcs(trigram: Tensor) -> Tensor:
    """Return the weights (V of cur, 2 V of kind and prev, V of next) of saying a next label."""
    weights = trigram.transpose(0, 1).clone()  # (cur, prev, next)
    weights[:, :, 0] = 0.0  # the end of a text is no label
    from_label = weights.clone()
    from_label.diagonal(dim1=0, dim2=2).zero_()  # the same label twice needs a blank between
    return torch.cat([from_label, weights], 1)


def _occupation(
    states: list[Tensor], emission: Tensor, real: Tensor, ends: Tensor, arcs: Tensor
) -> Tensor:
    """Return the probability (B, S, V) of every label in every frame, zero on padding."""
    backwards = arcs.transpose(1, 2).contiguous()
    after = ends.expand_as(states[0])
    occupation = torch.zeros_like(emission)  # (S, V, B)
    for index in range(len(states) - 1, -1, -1):
        frame, here = emission[index], real[:, index]
        both = states[index] * after
        share = both.sum(3)  # (V, B, 2)
        occupation[index] = share[:, :, 0]
        occupation[index, 0] += share[:, :, 1].sum(0)
        occupation[index] *= here / occupation[index].sum(0)
        said = after[:, :, 0] * frame[:, :, None]  # (V of cur, B, V of prev)
        quiet = after[:, :, 1] * frame[0][None, :, None]
        before = torch.bmm(said.permute(2, 1, 0), backwards).view_as(both)
        before[:, :, 0] += said + quiet
        before[:, :, 1] += quiet
        before /= before.sum((0, 2, 3))[None, :, None, None]
        after = torch.where(here[None, :, None, None], before, after)
    return occupation.permute(2, 0, 1)
