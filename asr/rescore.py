"""How likely given texts of an utterance are: by decoder and CTC, and by two language models.

Decoder and CTC take one teacher-forced pass each. The language models are the n-grams with which
the texts were found, and a recurrent one, whose probabilities are mixed word by word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr.ctc import ctc_loss
from asr.lengths import valid_mask
from asr.model import Decoder, EncoderOutput
from asr.recurrent_lm import RecurrentWordLM
from asr.tokenizer import CharTokenizer
from asr.word_lm import WordNgramLM


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


@dataclass(frozen=True, eq=False)
class MixedWordLM:
    """An n-gram model and a recurrent one, of fewer words, together.

    Attributes:
        ngrams: Found the texts.
        recurrent: What it says of all words that it does not know is dealt out among these as
            single words are by `ngrams`.
    """

    ngrams: WordNgramLM
    recurrent: RecurrentWordLM

    @cached_property
    def _outside(self) -> float:
        """The log-probability of all words together that only the n-grams know."""
        known = self.recurrent.ids
        outside = [
            index for index, word in enumerate(self.ngrams.words, start=1) if word not in known
        ]
        unigrams = self.ngrams.unigrams[[*outside, self.ngrams.unknown_id]]
        return float(np.logaddexp.reduce(unigrams))

    def gains(self, texts: Sequence[str], share: float) -> list[float]:
        """Return by how many nats the mixture finds texts likelier than the n-grams alone.

        Args:
            texts: Words with spaces between them.
            share: Of the recurrent model, at most 1.
        """
        if not texts:
            return []
        words = [text.split() for text in texts]
        found = torch.cat(self.recurrent.score_texts(words)).double().numpy()
        ids, unknown = [], []
        for row in words:
            ids += [*map(self.ngrams.word_id, row), self.ngrams.end_id]
            unknown += [*(word not in self.recurrent.ids for word in row), False]
        before = self.ngrams.score_ids(np.array(ids))
        found += np.where(unknown, self.ngrams.unigrams[ids] - self._outside, 0.0)
        with np.errstate(divide="ignore"):  # a share of all or nothing
            mixed = np.logaddexp(np.log(share) + found, np.log1p(-share) + before)
        ends = np.cumsum([len(row) + 1 for row in words])
        gains: list[float] = np.add.reduceat(mixed - before, [0, *ends[:-1]]).tolist()
        return gains
