"""CTC as a conditional random field: a label sequence against all that a trigram finds likely.

Connectionist temporal classification takes the labels of different frames for independent, so it
learns to spell words that the search's language model knows anyway, and to be too sure. Here the
texts it competes with are weighed by a trigram of labels (Xiang and Ou, "CRF-based single-stage
acoustic modeling with CTC topology", 2019; Hadian et al., "End-to-end speech recognition using
lattice-free MMI", 2018):

    -log P(labels | x) = -log [P_ctc(labels | x) · P_trigram(labels)] + log Z(x)

where Z sums P_ctc · P_trigram over every sequence of labels (`asr/trellis.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asr.ctc import ctc_loss
from asr.lengths import valid_mask
from asr.trellis import sum_paths


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
    """log Z of each utterance; its gradient is how often each label was passed."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, trigram: Tensor) -> Tensor:
        log_total, occupation = sum_paths(
            log_probs.detach(), lengths, trigram, ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(occupation)
        return log_total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (occupation,) = ctx.saved_tensors
        return occupation * gradients[0][:, None, None], None, None
