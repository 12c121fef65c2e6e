"""How likely the decoder and CTC hold given texts of an utterance: one teacher-forced pass each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr.ctc import ctc_loss
from asr.lengths import valid_mask
from asr.model import Decoder, EncoderOutput
from asr.tokenizer import CharTokenizer


def pick_utterance(encoded: EncoderOutput, index: int) -> EncoderOutput:
    """Return one utterance of a batch, without padding."""
    length = encoded.encoder_out_lengths[index : index + 1]
    frames = encoded.encoder_out[index : index + 1, : int(length)]
    read = encoded.phones_read
    if read is not None:
        read = read[index : index + 1, : int(length)]
    return EncoderOutput(frames, length, encoded.final_state[index : index + 1], read)


def score_by_attention(
    decoder: Decoder, encoded: EncoderOutput, texts: Sequence[Sequence[int]]
) -> Tensor:
    """Return the decoder's natural-log probability (N,) of N texts of one utterance.

    Args:
        decoder: In evaluation mode.
        encoded: The utterance.
        texts: Character ids, without start and end.
    """
    tokens, lengths = _pad(texts, encoded.encoder_out.device)
    count = len(texts)
    repeated = EncoderOutput(
        encoded.encoder_out.expand(count, -1, -1),
        encoded.encoder_out_lengths.expand(count),
        encoded.final_state.expand(count, -1),
        None if encoded.phones_read is None else encoded.phones_read.expand(count, -1, -1),
    )
    given = F.pad(tokens, (1, 0), value=CharTokenizer.sos_id)  # (N, U + 1)
    logits, _ = decoder(given, repeated)
    wanted = F.pad(tokens, (0, 1)).scatter(1, lengths[:, None], CharTokenizer.eos_id)
    log_probs: Tensor = logits.float().log_softmax(2).gather(2, wanted[:, :, None])[:, :, 0]
    real = valid_mask(lengths + 1, log_probs.shape[1])
    return log_probs.masked_fill(~real, 0.0).sum(1)


def score_by_ctc(log_probs: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return CTC's natural-log probability (N,) of N texts of one utterance.

    Args:
        log_probs: (T, V) of its frames.
        texts: Label ids.
    """
    tokens, lengths = _pad(texts, log_probs.device)
    frames = torch.full((len(texts),), len(log_probs), device=log_probs.device)
    return -ctc_loss(log_probs.expand(len(texts), -1, -1), frames, tokens, lengths)


def _pad(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(text, dtype=torch.long) for text in texts]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return pad_sequence(rows, batch_first=True).to(device), lengths
