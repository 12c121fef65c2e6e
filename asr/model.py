"""The network: log-mel frames in, characters out, in the order in which data meets it.

    features (B, T, F)
      → FrontEnd      strided convolutions, fewer frames          (B, S, C)
      → Encoder       stacked recurrent layers                    (B, S, D)
      → ctc_log_probs characters without a decoder                (B, S', V)
      → phone_log_probs  phones, for the search over words        (B, S', P)
      → PhoneReader   the phones heard, for the decoder           (B, S, D)
      → Decoder       embedding → GRU → attention → GRU → linear  (B, U, V)

Every integer length travels with its tensor, and nothing computed for an utterance depends on
the utterances beside it in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.config import ModelConfig
from asr.front_end import FrontEnd
from asr.lengths import reverse_by_length, valid_mask

RecurrentCells = dict[str, Callable[..., nn.RNNBase]]
RECURRENT_CELLS: RecurrentCells = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder says of a batch.

    Attributes:
        encoder_out: (B, S, D), zero on padding.
        encoder_out_lengths: (B,) encoder frames.
        final_state: (B, D) of the last layer: the forward direction's state behind the last
            frame and the backward direction's before the first.
        phones_read: (B, S, D) what the decoder sees of the phones, beside `encoder_out`.
    """

    encoder_out: Tensor
    encoder_out_lengths: Tensor
    final_state: Tensor
    phones_read: Tensor | None = None

    @property
    def memory(self) -> Tensor:
        """What a decoder attends to (B, S, D)."""
        return self.encoder_out if self.phones_read is None else self.encoder_out + self.phones_read


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return (…, width) sines and cosines of positions (…) in seconds (Vaswani et al., 2017)."""
    # Periods from a quarter of a second, a few characters, to a minute.
    steps = torch.linspace(0, 1, width // 2, device=positions.device)
    periods = 0.25 * (60 / 0.25) ** steps
    angles = 2 * math.pi * positions[..., None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class RecurrentLayer(nn.Module):
    """One recurrent layer in one or both directions, with layer norm and dropout.

    The backward direction is a forward cell over the sequence reversed by its own length: padded
    kernels stay fast and padding is never read.
    """

    def __init__(self, config: ModelConfig, input_width: int) -> None:
        super().__init__()
        cell = RECURRENT_CELLS[config.encoder_cell]
        directions = 2 if config.bidirectional else 1
        self.output_width = directions * config.encoder_width
        self.cells = nn.ModuleList(
            cell(input_width, config.encoder_width, batch_first=True) for _ in range(directions)
        )
        self.norm = nn.LayerNorm(self.output_width)
        self.dropout = nn.Dropout(config.encoder_dropout)
        self.residual = input_width == self.output_width

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, S, D) and the cells' last states (B, D)."""
        outputs = [self.cells[0](x)[0]]
        last = (lengths - 1)[:, None, None].expand(-1, 1, outputs[0].shape[2])
        states = [outputs[0].gather(1, last)]
        if len(self.cells) == 2:
            backward = self.cells[1](reverse_by_length(x, lengths))[0]
            states.append(backward.gather(1, last))
            outputs.append(reverse_by_length(backward, lengths))
        y = self.dropout(self.norm(torch.cat(outputs, dim=2)))
        return (x + y if self.residual else y), torch.cat(states, dim=2)[:, 0]


class Encoder(nn.Module):
    """Front end and stacked recurrent layers; a pyramid joins pairs of frames between them."""

    def __init__(self, config: ModelConfig, num_mels: int) -> None:
        super().__init__()
        self.front_end = FrontEnd(config, num_mels)
        self.pyramid_layers = config.pyramid_layers
        width = self.front_end.output_width
        layers = []
        for index in range(config.encoder_layers):
            layers.append(RecurrentLayer(config, width))
            width = layers[-1].output_width * (2 if index in config.pyramid_layers else 1)
        self.layers = nn.ModuleList(layers)
        self.output_width = width
        self.state_width = layers[-1].output_width
        self.subsampling = 2 ** (len(config.conv_channels) + len(config.pyramid_layers))

    def forward(self, features: Tensor, feature_lengths: Tensor) -> EncoderOutput:
        """Encode features (B, T, F) of the given lengths (B,)."""
        x, lengths = self.front_end(features, feature_lengths)
        state = x.new_zeros(0)
        for index, layer in enumerate(self.layers):
            x, state = layer(x, lengths)
            if index in self.pyramid_layers:
                x = x * valid_mask(lengths, x.shape[1])[:, :, None]
                x = F.pad(x, (0, 0, 0, x.shape[1] % 2)).unflatten(1, (-1, 2)).flatten(2)
                lengths = (lengths + 1) // 2
        x = x * valid_mask(lengths, x.shape[1])[:, :, None]
        return EncoderOutput(x, lengths, state)


class PhoneReader(nn.Module):
    """One recurrent layer that reads the probabilities of phones, for the decoder.

    How sounds are spelled is so learned from text alone, too: see `asr.imagine`.
    """

    def __init__(self, config: ModelConfig, encoder_width: int) -> None:
        super().__init__()
        width, dropout = config.phone_reader_width, config.decoder_dropout
        inner = replace(config, encoder_width=width, encoder_dropout=dropout)
        self.layer = RecurrentLayer(inner, config.phone_labels * config.ctc_labels_per_frame)
        self.output = nn.Linear(self.layer.output_width, encoder_width)
        for weights in self.output.parameters():
            nn.init.zeros_(weights)  # joins a trained decoder without disturbing it

    def forward(self, probabilities: Tensor, lengths: Tensor) -> Tensor:
        """Turn probabilities (B, S, labels a frame · P) into (B, S, D), zero on padding."""
        read: Tensor = self.output(self.layer(probabilities, lengths)[0])
        return read * valid_mask(lengths, read.shape[1])[:, :, None]


@dataclass(frozen=True)
class DecoderState:
    """Everything a decoder carries from one character to the next, for N = B·K rows.

    Attributes:
        hidden: One (N, H) state for each GRU.
        keys: (B, heads, S, width) projected encoder frames; row n reads those of n // K.
        values: (B, heads, S, width).
        mask: (B, S), True on real frames.
        weights: (N, S) sum of the attention so far, for location-aware attention.
        position: Number of characters decoded.
    """

    hidden: tuple[Tensor, ...]
    keys: Tensor
    values: Tensor
    mask: Tensor
    weights: Tensor
    position: int

    def reorder(self, index: Tensor) -> DecoderState:
        """Return the state in which row n continues row ``index[n]`` of the same utterance."""
        hidden = tuple(h[index] for h in self.hidden)
        return replace(self, hidden=hidden, weights=self.weights[index])


class Attention(nn.Module):
    """Multi-head attention by content and position, or aware of where it has already looked.

    Content: scaled dot products in which queries and keys carry sinusoids of their time, so
    that a head can learn how fast speech goes. Location (Chorowski et al., 2015): a convolution
    of the attention so far is added to the keys inside a tanh; it must go step by step.
    """

    chars_per_second = 15.0  # of read English: only the scale of the queries' clock

    def __init__(self, config: ModelConfig, encoder_width: int, frame_seconds: float) -> None:
        super().__init__()
        width = config.attention_width
        self.kind, self.heads = config.attention, config.attention_heads
        self.frame_seconds = frame_seconds
        self.output_width = width
        self.query = nn.Linear(config.decoder_width, width)
        self.key = nn.Linear(encoder_width, width)
        self.value = nn.Linear(encoder_width, width)
        if self.kind == "content":
            self.query_position = nn.Linear(64, width, bias=False)
            self.key_position = nn.Linear(64, width, bias=False)
        else:
            self.location = nn.Conv1d(1, width, kernel_size=31, padding=15, bias=False)
            self.energy = nn.Parameter(torch.randn(self.heads, width // self.heads) * 0.1)

    def split_heads(self, x: Tensor) -> Tensor:
        """Turn (B, S, width) into (B, heads, S, width / heads)."""
        split: Tensor = x.unflatten(2, (self.heads, -1))
        return split.transpose(1, 2)

    def memory(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Project the encoder's frames once: keys and values (B, heads, S, ·), mask (B, S)."""
        x = encoded.memory
        keys = self.key(x)
        if self.kind == "content":
            time = torch.arange(x.shape[1], device=x.device) * self.frame_seconds
            keys = keys + self.key_position(sinusoids(time, 64))
        mask = valid_mask(encoded.encoder_out_lengths, x.shape[1])
        return self.split_heads(keys), self.split_heads(self.value(x)), mask

    def forward(
        self, hidden: Tensor, positions: Tensor, state: DecoderState
    ) -> tuple[Tensor, Tensor]:
        """Attend from hidden states (B, U, H) of characters at ``positions`` (U,) or (1,).

        Returns:
            Context (B, U, width) and weights, the mean over heads (B, U, S).
        """
        time = sinusoids(positions / self.chars_per_second, 64)
        queries = self.split_heads(self.query(hidden) + self.query_position(time))
        scores = queries @ state.keys.transpose(2, 3) / math.sqrt(queries.shape[3])
        return self.weigh(scores, state)

    def locate(self, hidden: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Attend from the hidden states (B, K, H) of one character, seeing earlier weights."""
        where = self.location(state.weights[:, None])  # (N, width, S)
        where = where.unflatten(0, (len(state.keys), -1)).unflatten(2, (self.heads, -1))
        where = where.permute(0, 2, 1, 4, 3)  # (B, heads, K, S, width/heads)
        queries = self.split_heads(self.query(hidden))  # (B, heads, K, ·)
        inside = (queries[:, :, :, None] + state.keys[:, :, None] + where).tanh()
        return self.weigh((inside * self.energy[None, :, None, None]).sum(-1), state)

    def weigh(self, scores: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Turn scores (B, heads, U, S) into context and mean weights."""
        scores = scores.float().masked_fill(~state.mask[:, None, None], -math.inf)
        weights = scores.softmax(dim=3)
        context = weights.to(state.values.dtype) @ state.values  # (B, heads, U, ·)
        return context.transpose(1, 2).flatten(2), weights.mean(dim=1)


class Decoder(nn.Module):
    """Embedding → GRU → attention → GRU → linear, over characters.

    Context does not flow back into the first GRU, so a teacher-forced pass is one call of each
    part for all characters; location-aware attention alone goes step by step.

    ``attention = "none"`` is the first sequence-to-sequence model (Cho et al. 2014, Sutskever et
    al. 2014): embedding → ReLU → GRU → linear, the GRU started by the encoder's last state.
    """

    def __init__(
        self, config: ModelConfig, encoder: Encoder, vocab_size: int, frame_seconds: float
    ):
        super().__init__()
        self.kind = config.attention
        self.embedding = nn.Embedding(vocab_size, config.embedding_width)
        self.dropout = nn.Dropout(config.decoder_dropout)
        self.width = config.decoder_width
        self.rnn = nn.GRU(config.embedding_width, self.width, batch_first=True)
        output_width = self.width
        self.attention: Attention | None = None
        self.second_rnn: nn.GRU | None = None
        self.bridge: nn.Module = nn.Identity()
        if self.kind == "none":
            if encoder.state_width != self.width:
                self.bridge = nn.Linear(encoder.state_width, self.width)
        else:
            self.attention = Attention(config, encoder.output_width, frame_seconds)
            output_width += self.attention.output_width
            if config.decoder_layers == 2:
                self.second_rnn = nn.GRU(output_width, self.width, batch_first=True)
                output_width = self.width + self.attention.output_width
        self.output = nn.Linear(output_width, vocab_size)

    def start(self, encoded: EncoderOutput, beam_size: int = 1) -> DecoderState:
        """Return the state before the first character, for N = B·beam_size rows."""
        x = encoded.encoder_out
        rows = len(x) * beam_size
        zero = x.new_zeros(rows, self.width)
        if self.attention is None:
            first = self.bridge(encoded.final_state).to(x.dtype).repeat_interleave(beam_size, dim=0)
            empty = x.new_zeros(len(x), 0)
            return DecoderState((first,), empty, empty, empty, x.new_zeros(rows, 0), 0)
        keys, values, mask = self.attention.memory(encoded)
        hidden = (zero,) if self.second_rnn is None else (zero, zero)
        return DecoderState(hidden, keys, values, mask, x.new_zeros(rows, x.shape[1]), 0)

    def forward(self, tokens: Tensor, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Score all next characters after each of the given ones (teacher forcing).

        Args:
            tokens: (B, U) ids, each row starting with ``sos_id``; padding may hold any id.
            encoded: The encoder's output for the same B utterances.

        Returns:
            Logits (B, U, V), and attention weights (B, U, S), (B, U, 0) without attention.
        """
        state = self.start(encoded)
        if self.kind != "location":
            logits, weights, _ = self.advance(tokens, state)
            return logits, weights
        steps = []
        for position in range(tokens.shape[1]):
            logits, weights, state = self.advance(tokens[:, position : position + 1], state)
            steps.append((logits, weights))
        return torch.cat([s[0] for s in steps], dim=1), torch.cat([s[1] for s in steps], dim=1)

    def advance(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, Tensor, DecoderState]:
        """Read tokens (N, U) on from a state: logits (N, U, V), weights (N, U, S), new state.

        U may exceed 1 only where rows are utterances (N = B); with K rows an utterance U is 1.
        """
        embedded = self.embedding(tokens)
        embedded = embedded.relu() if self.attention is None else self.dropout(embedded)
        hidden, last = self.rnn(embedded, state.hidden[0][None].to(embedded.dtype))  # (N, U, H)
        states = [last[0]]
        if self.attention is None:
            weights = hidden.new_zeros(*tokens.shape, 0)
            new = replace(state, hidden=tuple(states), position=state.position + tokens.shape[1])
            return self.output(hidden), weights, new
        context, weights = self.attend(hidden, state)
        joined = torch.cat([hidden, context.to(hidden.dtype)], dim=2)
        if self.second_rnn is not None:
            second, last = self.second_rnn(
                self.dropout(joined), state.hidden[1][None].to(joined.dtype)
            )
            states.append(last[0])
            joined = torch.cat([second, context.to(second.dtype)], dim=2)
        new = replace(
            state,
            hidden=tuple(states),
            weights=state.weights + weights.sum(dim=1),
            position=state.position + tokens.shape[1],
        )
        return self.output(self.dropout(joined)), weights, new

    def attend(self, hidden: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        """Attend from (N, U, H), where N is B or B·K rows: context and weights (N, U, ·)."""
        assert self.attention is not None
        batch, beams = len(state.keys), len(hidden) // len(state.keys)
        assert beams == 1 or hidden.shape[1] == 1
        rows = hidden.reshape(batch, -1, hidden.shape[2])  # (B, U or K, H)
        if self.kind == "location":
            context, weights = self.attention.locate(rows, state)
        else:
            positions = state.position + torch.arange(hidden.shape[1], device=hidden.device)
            context, weights = self.attention(rows, positions, state)
        return context.reshape(*hidden.shape[:2], -1), weights.reshape(*hidden.shape[:2], -1)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one character (N,) a row; return log-probs (N, V) of the next, and the state."""
        logits, _, state = self.advance(tokens[:, None], state)
        return logits[:, 0].float().log_softmax(dim=1), state


class SpeechModel(nn.Module):
    """Encoder, CTC head and decoder.

    Args:
        config: Sizes and kinds.
        num_mels: F.
        vocab_size: V.
        shift_seconds: Time from one feature frame to the next.
    """

    def __init__(
        self, config: ModelConfig, num_mels: int, vocab_size: int, shift_seconds: float = 0.01
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, num_mels)
        width, labels = self.encoder.output_width, config.ctc_labels_per_frame
        self.ctc_head = nn.Linear(width, vocab_size * labels)
        self.phone_head: nn.Linear | None = None
        self.phone_reader: PhoneReader | None = None
        if config.phone_labels:
            self.phone_head = nn.Linear(width, config.phone_labels * labels)
            if config.phone_reader_width and config.attention != "none":
                self.phone_reader = PhoneReader(config, width)
        frame_seconds = shift_seconds * self.encoder.subsampling
        self.decoder = Decoder(config, self.encoder, vocab_size, frame_seconds)

    def encode(self, features: Tensor, lengths: Tensor, for_decoder: bool = True) -> EncoderOutput:
        """Encode features (B, T, F) of lengths (B,) ≥ 1 frames, for CTC alone or both."""
        encoded: EncoderOutput = self.encoder(features, lengths)
        return self.with_phones_read(encoded) if for_decoder else encoded

    def with_phones_read(self, encoded: EncoderOutput) -> EncoderOutput:
        """Add what the decoder sees of the phones, for a network with a reader of them."""
        if self.phone_reader is None:
            return encoded
        # Detached: the decoder's loss does not reach the phones.
        heard = self.phone_log_probs(encoded)[0].detach().exp()
        heard = heard.unflatten(1, (-1, self.config.ctc_labels_per_frame)).flatten(2)
        return replace(encoded, phones_read=self.phone_reader(heard, encoded.encoder_out_lengths))

    def ctc_log_probs(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Return CTC log-probs (B, S', V) and lengths (B,); S' is S · ctc_labels_per_frame."""
        return self._label_log_probs(self.ctc_head, encoded)

    def phone_log_probs(self, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        """Return the same over phones, (B, S', P) and (B,); label 0 is the blank.

        Raises:
            ValueError: The network was trained without a lexicon.
        """
        if self.phone_head is None:
            raise ValueError("the network knows no phones, wanted one trained with data.lexicon")
        return self._label_log_probs(self.phone_head, encoded)

    def _label_log_probs(self, head: nn.Linear, encoded: EncoderOutput) -> tuple[Tensor, Tensor]:
        labels = self.config.ctc_labels_per_frame
        logits = head(encoded.encoder_out).unflatten(2, (labels, -1))
        return logits.flatten(1, 2).float().log_softmax(dim=2), encoded.encoder_out_lengths * labels
