"""The decoder one character at a time, as a scorer of the search.

`asr.model.Decoder` reads all characters of a text at once, which is what training wants. A search
can only give one at a time, to a handful of rows, and there the reading of weights and the number
of calls are what costs. So here, once for a batch of utterances, what can be multiplied beforehand
is, and matrices that see the same vector become one: three products a character are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.model import Decoder, DecoderState, EncoderOutput, sinusoids

_CLOCK = 256  # positions whose part of the query is worked out at once


@dataclass(frozen=True, slots=True)
class StepperState:
    """What the rows of a search carry from one character to the next.

    Attributes:
        hidden: One (N, H) state for each GRU.
        recurrent: The same states times their GRU's recurrent weights, (N, 3 H) each.
        position: Number of characters read.
    """

    hidden: tuple[Tensor, ...]
    recurrent: tuple[Tensor, ...]
    position: int

    def reorder(self, index: Tensor) -> StepperState:
        """Return the state in which row n continues row ``index[n]``."""
        hidden = tuple(h.index_select(0, index) for h in self.hidden)
        recurrent = tuple(r.index_select(0, index) for r in self.recurrent)
        return StepperState(hidden, recurrent, self.position)


class Stepper:
    """A decoder with attention by content, prepared for a batch; it leaves dropout out.

    Args:
        decoder: Its weights are copied.
        encoded: The batch.
    """

    def __init__(self, decoder: Decoder, encoded: EncoderOutput) -> None:
        assert decoder.attention is not None and decoder.kind == "content"
        attention, first, second = decoder.attention, decoder.rnn, decoder.second_rnn
        self.attention, self.width, self.layers = attention, decoder.width, 2 if second else 1
        self.characters = F.linear(decoder.embedding.weight, *_weights(first, "ih"))
        keys, values, mask = attention.memory(encoded)
        scale = 1 / math.sqrt(keys.shape[3])
        self.keys = (keys * scale).transpose(2, 3).contiguous()  # (B, heads, ·, S)
        self.values = values.contiguous()
        self.hidden_frames: Tensor | None = None  # (B, 1, 1, S), -inf on padding
        if not bool(mask.all()):
            nothing = torch.zeros(mask.shape, device=mask.device)
            self.hidden_frames = nothing.masked_fill(~mask, -math.inf)[:, None, None]
        self.clock = torch.zeros(0, attention.output_width, device=mask.device)
        # Behind attention comes the second GRU, or the output at once.
        behind = _weights(second, "ih") if second else _weights(decoder.output)
        of_hidden, of_context = behind[0].split([self.width, attention.output_width], 1)
        query = _weights(attention.query)
        own = _weights(first, "hh")
        # Of the first state: the query, its own recurrence, its part of what is behind attention.
        self.first = _join(query, own, (of_hidden, behind[1]))
        self.second = _join((of_context, behind[1] * 0))
        self.third: tuple[Tensor, Tensor] | None = None
        if second:
            output, bias = _weights(decoder.output)
            to_output, from_context = output.split([self.width, attention.output_width], 1)
            self.second = _join((of_context, behind[1] * 0), (from_context, bias))
            self.third = _join(_weights(second, "hh"), (to_output, bias * 0))

    def start(self, rows: int) -> StepperState:
        """Return the state of `rows` rows before the first character."""
        hidden = (self.keys.new_zeros(rows, self.width),) * self.layers
        recurrent = [self.first[1][self.attention.output_width :][: 3 * self.width]]
        if self.third:
            recurrent.append(self.third[1][: 3 * self.width])
        return StepperState(hidden, tuple(r.expand(rows, -1) for r in recurrent), 0)

    def step(self, tokens: Tensor, state: StepperState) -> tuple[Tensor, StepperState]:
        """Read one character (N,) a row; return log-probs (N, V) of the next, and the state."""
        sizes = [self.attention.output_width, 3 * self.width]
        given = self.characters.index_select(0, tokens)
        hidden = _gru(given, state.recurrent[0], state.hidden[0])
        query, recurrent, behind = _split(F.linear(hidden, *self.first), sizes)
        context = F.linear(self.attend(query, state.position), *self.second)
        if self.third is None:
            new = StepperState((hidden,), (recurrent,), state.position + 1)
            return (behind + context).log_softmax(1), new
        given, logits = _split(context, [3 * self.width])
        second = _gru(given + behind, state.recurrent[1], state.hidden[1])
        again, of_second = _split(F.linear(second, *self.third), [3 * self.width])
        new = StepperState((hidden, second), (recurrent, again), state.position + 1)
        return (logits + of_second).log_softmax(1), new

    def attend(self, query: Tensor, position: int) -> Tensor:
        """Return the context (N, width) of queries (N, width) of characters at a position."""
        batch, heads = self.keys.shape[:2]
        if position >= len(self.clock):
            self.clock = self._positions(len(self.clock) + _CLOCK)
        queries = (query + self.clock[position]).view(batch, -1, heads, self.keys.shape[2])
        scores = queries.transpose(1, 2) @ self.keys  # (B, heads, K, S)
        if self.hidden_frames is not None:
            scores += self.hidden_frames
        context = scores.softmax(3) @ self.values  # (B, heads, K, ·)
        return context.transpose(1, 2).reshape(len(query), -1)

    def _positions(self, count: int) -> Tensor:
        """Return what each position adds to a query: (count, width)."""
        time = torch.arange(count, device=self.keys.device) / self.attention.chars_per_second
        added: Tensor = self.attention.query_position(sinusoids(time, 64))
        return added


class AttentionScorer:
    """The decoder as a scorer of the search (see ``asr.search.Scorer``)."""

    def __init__(self, decoder: Decoder, encoded: EncoderOutput) -> None:
        self.decoder = decoder
        self.encoded = encoded
        self.stepper = Stepper(decoder, encoded) if decoder.kind == "content" else None

    def initial_state(self, beam_size: int) -> StepperState | DecoderState:
        """Return the state of B·beam_size rows before the start mark."""
        if self.stepper is None:
            return self.decoder.start(self.encoded, beam_size)
        return self.stepper.start(len(self.encoded.encoder_out) * beam_size)

    def score(
        self, tokens: Tensor, state: StepperState | DecoderState
    ) -> tuple[Tensor, StepperState | DecoderState]:
        """Return log-probs (N, V) of the characters after ``tokens`` (N,)."""
        if isinstance(state, DecoderState):
            return self.decoder.step(tokens, state)
        assert self.stepper is not None
        return self.stepper.step(tokens, state)

    def reorder(
        self, state: StepperState | DecoderState, index: Tensor
    ) -> StepperState | DecoderState:
        """Let row n continue row ``index[n]``."""
        return state.reorder(index)


def _weights(layer: nn.Module, kind: str = "") -> tuple[Tensor, Tensor]:
    """Return weight and bias of a linear layer, or of an nn.GRU's input ("ih") or state ("hh")."""
    suffix = f"_{kind}_l0" if kind else ""
    return layer.get_parameter(f"weight{suffix}"), layer.get_parameter(f"bias{suffix}")


def _join(*parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Join the weights (O, I) and biases (O,) of layers that see the same input."""
    weights, biases = zip(*parts, strict=True)
    return torch.cat(weights), torch.cat(biases)


def _split(x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Split (N, W) into columns of the given sizes and what is left."""
    return torch.split_with_sizes(x, [*sizes, x.shape[1] - sum(sizes)], 1)  # the lightest call


def _gru(given: Tensor, recurrent: Tensor, hidden: Tensor) -> Tensor:
    """Return a GRU's next state (N, H) from both halves of its gates (N, 3 H), biases included."""
    sizes = [2 * hidden.shape[1]]
    given_gates, given_new = _split(given, sizes)
    recurrent_gates, recurrent_new = _split(recurrent, sizes)
    reset, keep = (given_gates + recurrent_gates).sigmoid_().chunk(2, 1)
    new = torch.addcmul(given_new, reset, recurrent_new).tanh_()
    return torch.lerp(new, hidden, keep)
