"""What training makes small: CTC and attention together, attention guided by CTC.

With a lexicon, a second CTC head learns phones: English spelling has to be learned from text,
but a phone sounds much the same wherever it stands, and a few hours teach it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.config import TrainConfig
from asr.crf import crf_loss
from asr.ctc import ctc_feasible, ctc_loss, forced_align
from asr.imagine import Imagined
from asr.lengths import valid_mask
from asr.model import EncoderOutput, SpeechModel
from asr.tokenizer import CharTokenizer

_CTC_SHARE = 0.1  # of CTC beside the random field, which alone says little of a single frame


@dataclass(frozen=True)
class Losses:
    """Scalars, in nats a character; what is not trained is zero.

    Attributes:
        total: What is differentiated.
        ctc: CTC loss.
        attention: Cross-entropy of the decoder, with label smoothing.
        guide: Negative log of the attention that lies where CTC places a character.
        phone: CTC loss over phones, or that of the random field.
        text: Cross-entropy of the decoder on texts as if heard.
        consistency: How unlike two hearings of an utterance are.
    """

    total: Tensor
    ctc: Tensor
    attention: Tensor
    guide: Tensor
    phone: Tensor
    text: Tensor
    consistency: Tensor


@dataclass(frozen=True)
class UpdateSize:
    """By how much one process divides its sums, so that the mean over processes is the update's.

    Attributes:
        characters: Characters of all processes' texts, divided by the number of processes.
        ends: The same with an end mark for each utterance.
    """

    characters: float
    ends: float

    @classmethod
    def of(cls, num_characters: float, num_utterances: float, num_processes: int) -> UpdateSize:
        """Return the size of an update from the sums over all processes."""
        characters = max(1.0, num_characters) / num_processes
        return cls(characters, characters + num_utterances / num_processes)


class JointLoss(nn.Module):
    """The model with its training loss, so that several processes share one ``forward``.

    Joint CTC and attention: Kim et al., "Joint CTC-attention based end-to-end speech recognition",
    2017. Guided attention: a character's attention should fall within a frame or two of its place
    in the CTC forced alignment; it lets attention align in hours instead of days.

    Args:
        model: The network.
        config: Weights of the parts.
        phone_trigram: (P, P, P) of `asr.crf.label_trigram`; phones are then trained against all
            that it finds likely.
    """

    phone_trigram: Tensor | None

    def __init__(
        self, model: SpeechModel, config: TrainConfig, phone_trigram: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.register_buffer("phone_trigram", phone_trigram, persistent=False)

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        with_decoder: bool,
        counts: Tensor,
        size: UpdateSize,
        phones: Tensor | None = None,
        phone_lengths: Tensor | None = None,
        imagined: Imagined | None = None,
    ) -> Losses:
        """Return the losses of a batch, as this process's share of the update's mean.

        Args:
            features: (B, T, F). With a `consistency_weight`, the second half of the batch are the
                utterances of the first once more.
            feature_lengths: (B,) frames.
            tokens: (B, U) character ids, padded with ``pad_id``.
            token_lengths: (B,).
            with_decoder: False trains encoder and CTC head alone.
            counts: (B,) booleans, False for a stand-in that must not be learned from.
            size: Of the whole update.
            phones: (B, P) phone ids, padded with 0, for a network with a head for them.
            phone_lengths: (B,).
            imagined: Texts as if heard, for a network with a reader of phones.
        """
        model = self.model
        encoded = model.encode(features, feature_lengths, with_decoder)
        log_probs, lengths = model.ctc_log_probs(encoded)
        ctc = ctc_loss(log_probs, lengths, tokens, token_lengths)  # (B,)
        ctc = ctc.masked_fill(~counts, 0.0).sum() / size.characters
        phone = consistency = zero = torch.zeros_like(ctc)
        heads = [(1.0, log_probs)]  # with what they weigh
        if phones is not None and phone_lengths is not None and self.config.phone_weight:
            phone_log_probs, _ = model.phone_log_probs(encoded)  # as many labels as characters
            phone = self.phone_loss(phone_log_probs, lengths, phones, phone_lengths)  # (B,)
            phone = phone.masked_fill(~counts, 0.0).sum() / size.characters
            heads.append((self.config.phone_weight, phone_log_probs))
        extra = self.config.phone_weight * phone
        if self.config.consistency_weight:
            for weight, heard in heads:
                unlike = self.unlike(heard, lengths, counts) / size.characters
                consistency = consistency + weight * unlike
            extra = extra + self.config.consistency_weight * consistency
        if not with_decoder:
            return Losses(ctc + extra, ctc, zero, zero, phone, zero, consistency)
        text = zero if imagined is None else self.spelling(imagined)
        extra = extra + self.config.text_weight * text
        logits, weights = model.decoder(self.with_start(tokens), self.for_decoder(encoded))
        attention = self.cross_entropy(logits, tokens, token_lengths, counts) / size.ends
        guide = zero
        if self.config.guided_attention_weight and weights.shape[2]:
            frames = forced_align(log_probs.detach(), lengths, tokens, token_lengths)
            usable = ctc_feasible(tokens, token_lengths, lengths) & counts
            guide = self.guide(weights[:, :-1], frames, token_lengths * usable) / size.characters
        ctc_weight = self.config.ctc_weight
        total = ctc_weight * ctc + (1 - ctc_weight) * attention + extra
        total = total + self.config.guided_attention_weight * guide
        return Losses(total, ctc, attention, guide, phone, text, consistency)

    def phone_loss(
        self, log_probs: Tensor, lengths: Tensor, phones: Tensor, phone_lengths: Tensor
    ) -> Tensor:
        """Return the loss (B,) of phones (B, P) by log-probs (B, S, labels)."""
        ctc = ctc_loss(log_probs, lengths, phones, phone_lengths)
        if self.phone_trigram is None:
            return ctc
        against = crf_loss(log_probs, lengths, phones, phone_lengths, self.phone_trigram)
        return against + _CTC_SHARE * ctc

    @staticmethod
    def unlike(log_probs: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        """Return by how much one half of a batch hears other labels than the other, in nats.

        Each half's labels (B, S, V) are drawn to those of the other, frame by frame; the result is
        the sum. Yao et al., "CR-CTC: Consistency regularization on CTC", 2024.
        """
        other = torch.cat(log_probs.chunk(2)[::-1]).detach()
        unlike = F.kl_div(log_probs, other, reduction="none", log_target=True).sum(2)  # (B, S)
        heard = valid_mask(lengths, unlike.shape[1]) & counts[:, None]
        return unlike.masked_fill(~heard, 0.0).sum()

    def for_decoder(self, encoded: EncoderOutput) -> EncoderOutput:
        """Return what the decoder sees in training: of some utterances the phones alone."""
        if encoded.phones_read is None:
            return encoded
        x = encoded.encoder_out
        alone = torch.rand(len(x), 1, 1, device=x.device) < self.config.phones_alone
        return replace(encoded, encoder_out=x.masked_fill(alone, 0.0))

    def spelling(self, imagined: Imagined) -> Tensor:
        """Return the cross-entropy of the texts whose phones the decoder sees, in nats a mark."""
        reader, lengths, tokens = self.model.phone_reader, imagined.lengths, imagined.tokens
        assert reader is not None
        read = reader(imagined.phones, lengths)
        nothing = torch.zeros_like(read)
        encoded = EncoderOutput(nothing, lengths, nothing[:, 0], read)
        logits, _ = self.model.decoder(self.with_start(tokens), encoded)
        counts = torch.ones_like(lengths, dtype=torch.bool)
        ends = imagined.token_lengths.sum() + len(tokens)
        return self.cross_entropy(logits, tokens, imagined.token_lengths, counts) / ends

    @staticmethod
    def with_start(tokens: Tensor) -> Tensor:
        """Return what the decoder reads (B, U + 1): the start mark, then the characters."""
        return F.pad(tokens, (1, 0), value=CharTokenizer.sos_id)

    def cross_entropy(
        self, logits: Tensor, tokens: Tensor, token_lengths: Tensor, counts: Tensor
    ) -> Tensor:
        """Return the summed cross-entropy of characters and end marks; logits (B, U + 1, V)."""
        targets = F.pad(tokens, (0, 1), value=CharTokenizer.pad_id)  # (B, U + 1)
        targets = targets.scatter(1, token_lengths[:, None], CharTokenizer.eos_id)
        real = valid_mask(token_lengths + 1, targets.shape[1]) & counts[:, None]
        losses = F.cross_entropy(
            logits.float().transpose(1, 2),
            targets,
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )  # (B, U + 1)
        return losses.masked_fill(~real, 0.0).sum()

    def guide(self, weights: Tensor, frames: Tensor, token_lengths: Tensor) -> Tensor:
        """Return how far attention (B, U, S) is from CTC's frames (B, U), in nats, summed."""
        labels = self.model.config.ctc_labels_per_frame
        centres = frames.div(labels, rounding_mode="floor")[:, :, None]  # (B, U, 1)
        positions = torch.arange(weights.shape[2], device=weights.device)
        near = (positions - centres).abs() <= self.config.guided_attention_frames
        mass = (weights * near).sum(dim=2)  # (B, U)
        real = valid_mask(token_lengths, weights.shape[1]) & (frames >= 0)
        return -(mass.clamp(min=1e-4).log() * real).sum()
