"""CTC as a conditional random field: a label sequence against all that a trigram finds likely.

Connectionist temporal classification takes the labels of different frames for independent, so it
learns to spell words that the search's language model knows anyway, and to be too sure. Here the
texts it competes with are weighed by a trigram of labels (Xiang and Ou, "CRF-based single-stage
acoustic modeling with CTC topology", 2019; Hadian et al., "End-to-end speech recognition using
lattice-free MMI", 2018):

    -log P(labels | x) = -log [P_ctc(labels | x) · P_trigram(labels)] + log Z(x)

where Z sums P_ctc · P_trigram over every sequence of labels. Label 0 is the blank; no sequence
holds it, so that in trigrams it stands for the edge of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from asr import denominator
from asr.ctc import ctc_loss
from asr.lengths import valid_mask

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


def crf_loss(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, trigram: Tensor
) -> Tensor:
    """Return -log P(tokens | x) of each utterance under CTC and trigram, in nats.

    Args:
        log_probs: (B, S, V) log-probabilities of the labels, label 0 the blank.
        lengths: (B,) frames of each utterance.
        tokens: (B, U) label ids, padded with anything.
        token_lengths: (B,).
        trigram: (V, V, V) of `label_trigram`.

    Returns:
        (B,) float32. Utterances with too few frames for their text give zero, as in `ctc_loss`.
    """
    numerator = ctc_loss(log_probs, lengths, tokens, token_lengths)  # (B,) -log
    possible = numerator > 0
    with torch.autocast(log_probs.device.type, enabled=False):
        total: Tensor = _LogSum.apply(log_probs.float(), lengths, trigram)
    text = _log_probability(tokens, token_lengths, trigram)
    return (numerator - text + total) * possible


def _log_probability(tokens: Tensor, token_lengths: Tensor, trigram: Tensor) -> Tensor:
    """Return the trigram's log-probability (B,) of texts (B, U), their ends included."""
    inside = valid_mask(token_lengths, tokens.shape[1])
    padded = torch.nn.functional.pad(tokens * inside, (2, 1))  # (B, U + 3)
    probability = trigram[padded[:, :-2], padded[:, 1:-1], padded[:, 2:]]  # (B, U + 1)
    counted = valid_mask(token_lengths + 1, probability.shape[1])
    return probability.log().masked_fill(~counted, 0.0).sum(1)


class _LogSum(torch.autograd.Function):
    """log Z of each utterance, by the forward and backward recursions of a hidden Markov model.

    A state is the last two labels (prev, cur) and whether the frame emits `cur` or the blank; sums
    are of probabilities, divided by their total in every frame.
    """

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
        sums = _sums_of_cpu if log_probs.device.type == "cpu" else _sums_of_all
        log_total, occupation = sums(log_probs, lengths, trigram, ctx.needs_input_grad[0])
        ctx.save_for_backward(occupation)
        return log_total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (occupation,) = ctx.saved_tensors
        return occupation * gradients[0][:, None, None], None, None


def _sums_of_cpu(
    log_probs: Tensor, lengths: Tensor, trigram: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Return log Z (B,) and, if wanted, the labels' probabilities (B, S, V), row by row."""
    emission, table = log_probs.exp().numpy(), trigram.numpy()
    occupation = torch.zeros_like(log_probs)
    filled = occupation.numpy()

    def sum_one(row: int, length: int) -> float:
        return denominator.log_sum(
            emission[row, :length], table, filled[row, : length if wanted else 0]
        )

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        total = pool.map(sum_one, range(len(emission)), lengths.tolist())
        return torch.tensor(list(total), dtype=torch.float32), occupation


def _sums_of_all(
    log_probs: Tensor, lengths: Tensor, trigram: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Return the same with all states of a frame in one tensor (V of cur, B, 2, V of prev).

    So a frame is one batched product, which a GPU takes as quickly as a part of it.
    """
    batch, frames, labels = log_probs.shape
    arcs = _arcs(trigram)
    emission = log_probs.detach().exp().permute(1, 2, 0).contiguous()  # (S, V, B)
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
    at_end = (state * ends).sum((0, 2, 3))
    log_total += at_end.log()
    if not wanted:
        return log_total, log_total
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
