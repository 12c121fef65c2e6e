"""Search for the best token sequence under one scorer or a weighted sum of several.

A scorer is anything that follows the `Scorer` protocol: the attention decoder, CTC prefix
scores, a language model. The search knows nothing else about them.

Beam search keeps the best prefixes of each utterance and grows them by a token a step. Every
live prefix may end at every step, so a hypothesis wins by its score alone. An utterance is
done when no live prefix can beat its n best any more, given that increments are at most 0 and
that each token left could earn the length bonus; or at its `max_tokens`, where live prefixes
are closed with the score of eos. Where nothing is possible, the result is an empty hypothesis
with the score -inf. Of equal scores, the shorter hypothesis is first, then the
one with the better prefix, then the lower token id. Utterances never influence each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

# A run in which the same block of tokens stands again and again may be this long, or, if the
# block is long, hold it this often; the token that would go beyond is blocked. So "ha " may
# come ten times and a refrain four times, but a decoder that has lost its place gets out.
REPEATED_TOKENS = 32
REPEATED_BLOCKS = 4
LONGEST_BLOCK = 64


class Scorer(Protocol):
    """Gives each next token a natural-log score.

    Rows: N = B * K, row n belongs to utterance n // K; B never changes during a search.
    States are passed in and returned, never changed.
    """

    def initial_state(self, beam_size: int) -> Any:
        """Return the state of B * `beam_size` rows before sos."""

    def score(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return increments (N, V) for what follows `tokens` (N,), sos at first; and the state.

        Increments are at most 0, -inf where a token is impossible. Rows of dead hypotheses
        may hold any token, and any increments come back for them.
        """

    def reorder(self, state: Any, index: Tensor) -> Any:
        """Return a state whose row n continues row `index[n]`, of the same utterance."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished path.

    Attributes:
        tokens: Without sos and eos.
        score: Weighted sum of the parts, and of the length bonus for each token.
        parts: Each scorer's own sum, unweighted, eos included; 0 for a scorer of weight 0.
    """

    tokens: tuple[int, ...]
    score: float
    parts: tuple[float, ...] = ()


@torch.no_grad()
def greedy_search(
    scorer: Scorer,
    num_utterances: int,
    max_tokens: Tensor,
    sos_id: int,
    eos_id: int,
    blocked_ids: Sequence[int] = (0, 1),
) -> list[Hypothesis]:
    """Take the best next token until it is eos: one hypothesis for each utterance.

    Args:
        scorer: Scores the next token.
        num_utterances: B.
        max_tokens: (B,) int; an utterance that gets so long is closed with the score of eos.
        sos_id: Fed first.
        eos_id: Ends an utterance.
        blocked_ids: Never taken; by default blank and sos of `CharTokenizer`.

    Raises:
        ValueError: If `max_tokens` does not fit `num_utterances` or holds a negative number.
    """
    _check_max_tokens(max_tokens, num_utterances)
    state = scorer.initial_state(1)
    tokens = torch.full_like(max_tokens, sos_id, dtype=torch.long)
    loops = _LoopGuard.start(num_utterances, max_tokens.device)
    live = torch.ones_like(tokens, dtype=torch.bool)
    scores = torch.zeros_like(tokens, dtype=torch.float64)
    history: list[Tensor] = []
    for step in range(int(max_tokens.max()) + 1 if num_utterances else 0):
        increments, state = scorer.score(tokens, state)
        increments = _impossible_if_not_finite(increments.double())
        allowed = increments.clone()
        allowed[:, list(blocked_ids)] = -torch.inf
        loops.block(allowed)
        tokens = allowed.argmax(1)
        # Where nothing is possible, ending is what is left.
        ends = (step >= max_tokens) | (allowed.amax(1) == -torch.inf)
        tokens = tokens.masked_fill(ends | ~live, eos_id)
        scores += increments.gather(1, tokens[:, None])[:, 0].masked_fill(~live, 0.0)
        live = live & (tokens != eos_id)
        if not live.any():
            break
        history.append(tokens)
        loops = loops.extend(None, tokens)
    rows = torch.stack(history, 1).tolist() if history else [[] for _ in range(num_utterances)]
    return [
        Hypothesis(tuple(t for t in row if t != eos_id), score, (score,))
        for row, score in zip(rows, scores.tolist(), strict=True)
    ]


@torch.no_grad()
def beam_search(
    scorers: Sequence[tuple[Scorer, float]],
    num_utterances: int,
    max_tokens: Tensor,
    *,
    beam_size: int,
    sos_id: int,
    eos_id: int,
    blocked_ids: Sequence[int] = (0, 1),
    length_bonus: float = 0.0,
    nbest: int = 1,
    end_margin: float = math.inf,
) -> list[list[Hypothesis]]:
    """Return the best hypotheses of each utterance, best first: at most `nbest`, at least one.

    Args:
        scorers: Scorers and their weights; those of weight 0 are not run. With a negative
            weight nothing bounds a score, and the search goes on until `max_tokens`.
        num_utterances: B.
        max_tokens: (B,) int, most tokens of each utterance, eos not counted.
        beam_size: K, prefixes kept for each utterance.
        sos_id: Fed first.
        eos_id: Ends a hypothesis.
        blocked_ids: Never taken; by default blank and sos of `CharTokenizer`.
        length_bonus: Added for each token, eos not counted. A positive one weakens the bound.
        nbest: Hypotheses wanted.
        end_margin: Also stop when the best live prefix is this much worse, in nats, than the
            worst of the n best: a shortcut that may miss the best; inf never does.

    Raises:
        ValueError: If a size is out of range or no scorer has a weight.
    """
    _check_max_tokens(max_tokens, num_utterances)
    if num_utterances == 0:
        return []
    weights = [weight for _, weight in scorers]
    beams = _Beams(scorers, max_tokens, beam_size, nbest, sos_id, eos_id)
    gain = max(length_bonus, 0.0) if min(weights) >= 0 else math.inf
    blocked = torch.tensor(sorted({eos_id, *blocked_ids}), device=max_tokens.device)
    for step in range(int(max_tokens.max()) + 1):
        totals = beams.score().index_fill(2, blocked, -torch.inf)  # (B, K, V)
        beams.loops.block(totals.flatten(0, 1))
        totals += length_bonus
        left = (max_tokens - step - 1).double()
        totals[left < 0] = -torch.inf
        # The most that a longer prefix can still win; 0 times an infinite gain is 0.
        hope = torch.where(left > 0, left * gain, 0.0)
        if not beams.grow(totals, hope, end_margin):
            break
    return beams.finished(weights)


class _Beams:
    """The live prefixes of all utterances, and all that a step has left behind."""

    def __init__(
        self,
        scorers: Sequence[tuple[Scorer, float]],
        max_tokens: Tensor,
        beam_size: int,
        nbest: int,
        sos_id: int,
        eos_id: int,
    ) -> None:
        self.scorers = [(scorer, weight) for scorer, weight in scorers if weight != 0]
        if beam_size < 1 or nbest < 1 or not self.scorers:
            raise ValueError(
                f"beam search: beam_size {beam_size}, nbest {nbest} and {len(self.scorers)} "
                "scorers with a weight other than 0; wanted at least 1 of each"
            )
        batch, device = len(max_tokens), max_tokens.device
        self.eos_id = eos_id
        self.states = [scorer.initial_state(beam_size) for scorer, _ in self.scorers]
        self.tokens = torch.full((batch * beam_size,), sos_id, device=device)
        self.loops = _LoopGuard.start(batch * beam_size, device)
        # One empty prefix for each utterance; the other rows are dead until it has children.
        self.scores = torch.full((batch, beam_size), -torch.inf, dtype=torch.float64, device=device)
        self.scores[:, 0] = 0.0
        self.best = torch.full((batch, nbest), -torch.inf, dtype=torch.float64, device=device)
        self.first_row = torch.arange(batch, device=device)[:, None] * beam_size
        self.increments: list[Tensor] = []  # of this step, each (B, K, V)
        # What each step has left behind, for the way back.
        self.closed: list[Tensor] = []  # (B, K) score with eos
        self.closed_parts: list[Tensor] = []  # (B, K, scorers)
        self.parents: list[Tensor] = []  # (B, K)
        self.taken: list[Tensor] = []  # (B, K) tokens
        self.taken_parts: list[Tensor] = []  # (B, K, scorers)

    def score(self) -> Tensor:
        """Run the scorers, close every live prefix, return the scores of longer ones (B, K, V)."""
        totals = self.scores[..., None]
        self.increments = []
        for number, (scorer, weight) in enumerate(self.scorers):
            increments, self.states[number] = scorer.score(self.tokens, self.states[number])
            increments = increments.double().view(*self.scores.shape, -1)
            self.increments.append(increments)
            totals = torch.add(totals, increments, alpha=weight)
        totals = _impossible_if_not_finite(totals)
        closed = totals[..., self.eos_id].clone()
        self.closed.append(closed)
        self.closed_parts.append(torch.stack([i[..., self.eos_id] for i in self.increments], 2))
        self.best = torch.cat([self.best, closed], 1).topk(self.best.shape[1], dim=1).values
        return totals

    def grow(self, totals: Tensor, hope: Tensor, end_margin: float) -> bool:
        """Keep the best of the longer prefixes; return False when no utterance has any.

        Args:
            totals: (B, K, V) scores of the longer prefixes.
            hope: (B,) the most that a longer prefix can still win.
            end_margin: See `beam_search`.
        """
        vocabulary = totals.shape[2]
        # A stable sort, because topk leaves the order of equal scores open.
        ordered, order = totals.flatten(1).sort(dim=1, descending=True, stable=True)
        scores, order = ordered[:, : self.scores.shape[1]], order[:, : self.scores.shape[1]]
        top, worst = scores[:, 0], self.best[:, -1]
        over = (top + hope <= worst) | (top + end_margin < worst)
        self.scores = scores.masked_fill(over[:, None], -torch.inf)
        if bool((self.scores[:, 0] == -torch.inf).all()):
            return False
        parents, tokens = order // vocabulary, order % vocabulary
        parts = [increments.flatten(1).gather(1, order) for increments in self.increments]
        self.parents.append(parents)
        self.taken.append(tokens)
        self.taken_parts.append(torch.stack(parts, 2))
        index = (parents + self.first_row).flatten()
        self.tokens = tokens.flatten()
        self.states = [
            scorer.reorder(state, index)
            for (scorer, _), state in zip(self.scorers, self.states, strict=True)
        ]
        self.loops = self.loops.extend(index, self.tokens)
        return True

    def finished(self, weights: Sequence[float]) -> list[list[Hypothesis]]:
        """Collect the best closed prefixes; `weights` of all scorers, those not run included."""
        beam_size, nbest = self.scores.shape[1], self.best.shape[1]
        closed = torch.stack(self.closed, 1).flatten(1)  # (B, steps * K)
        ordered, order = closed.sort(dim=1, descending=True, stable=True)
        ways = _Ways(self.parents, self.taken, self.taken_parts, self.closed_parts)
        best = zip(ordered[:, :nbest].tolist(), order[:, :nbest].tolist(), strict=True)
        results = []
        for row, (scores, places) in enumerate(best):
            hypotheses = []
            for score, place in zip(scores, places, strict=True):
                if score > -math.inf:
                    tokens, sums = ways.back(row, *divmod(place, beam_size))
                    found = iter(sums)
                    parts = tuple(next(found) if weight != 0 else 0.0 for weight in weights)
                    hypotheses.append(Hypothesis(tokens, score, parts))
            nothing = Hypothesis((), -math.inf, (-math.inf,) * len(weights))
            results.append(hypotheses or [nothing])
        return results


class _Ways:
    """The steps of a search as arrays on the CPU: (steps, B, K) or (steps, B, K, scorers)."""

    def __init__(
        self,
        parents: Sequence[Tensor],
        taken: Sequence[Tensor],
        taken_parts: Sequence[Tensor],
        closed_parts: Sequence[Tensor],
    ) -> None:
        self.parents, self.taken = _stack(parents), _stack(taken)
        self.taken_parts, self.closed_parts = _stack(taken_parts), _stack(closed_parts)

    def back(self, row: int, step: int, place: int) -> tuple[tuple[int, ...], list[float]]:
        """Walk back from a prefix closed at `step`: its tokens and the sum of each scorer."""
        sums = self.closed_parts[step, row, place].copy()
        tokens = []
        for earlier in reversed(range(step)):
            tokens.append(int(self.taken[earlier, row, place]))
            sums += self.taken_parts[earlier, row, place]
            place = self.parents[earlier, row, place]
        return tuple(reversed(tokens)), sums.tolist()


def _stack(steps: Sequence[Tensor]) -> np.ndarray[Any, Any]:
    return torch.stack(list(steps)).cpu().numpy() if steps else np.zeros(0)


@dataclass(frozen=True, slots=True)
class _LoopGuard:
    """Knows the last tokens of each row, and for how long they have been repeating.

    Attributes:
        recent: (N, P) the last tokens, newest first; -1 before the first.
        repeated: (N, P) how many of the last tokens each equal the one p + 1 tokens before.
        limit: (P,) the value of `repeated` at which the next repetition is blocked.
    """

    recent: Tensor
    repeated: Tensor
    limit: Tensor

    @classmethod
    def start(cls, num_rows: int, device: torch.device) -> _LoopGuard:
        block = torch.arange(1, LONGEST_BLOCK + 1, device=device)
        # The first block of a run repeats nothing yet.
        limit = (REPEATED_BLOCKS * block).clamp(min=REPEATED_TOKENS) - block
        recent = torch.full((num_rows, LONGEST_BLOCK), -1, device=device)
        return cls(recent, torch.zeros_like(recent), limit)

    def block(self, scores: Tensor) -> None:
        """Set `scores` (N, V) to -inf, in place, for tokens that would repeat once too often."""
        rows, blocks = torch.nonzero(self.repeated >= self.limit, as_tuple=True)
        if len(rows):
            scores[rows, self.recent[rows, blocks]] = -torch.inf

    def extend(self, index: Tensor | None, tokens: Tensor) -> _LoopGuard:
        """Return the guard of rows that continue rows `index` (None: the same) by `tokens`."""
        recent = self.recent if index is None else self.recent[index]
        repeated = self.repeated if index is None else self.repeated[index]
        repeated = (repeated + 1) * (recent == tokens[:, None])
        recent = torch.cat([tokens[:, None], recent[:, :-1]], 1)
        return _LoopGuard(recent, repeated, self.limit)


def _impossible_if_not_finite(scores: Tensor) -> Tensor:
    """Turn NaN and infinities (a negative weight times -inf) into -inf."""
    return torch.where(scores.isfinite(), scores, -torch.inf)


def _check_max_tokens(max_tokens: Tensor, num_utterances: int) -> None:
    if max_tokens.shape != (num_utterances,) or bool((max_tokens < 0).any()):
        raise ValueError(
            f"search: max_tokens {max_tokens.tolist()} for {num_utterances} utterances; "
            "wanted one number, 0 or more, for each"
        )
