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

Array = np.ndarray[Any, Any]


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
    limits = _check_max_tokens(max_tokens, num_utterances)
    state = scorer.initial_state(1)
    tokens = np.full(num_utterances, sos_id)
    loops = _LoopGuard.start(num_utterances)
    live = np.ones(num_utterances, dtype=bool)
    scores = np.zeros(num_utterances)
    history: list[Array] = []
    for step in range(limits.max() + 1 if num_utterances else 0):
        scored, state = scorer.score(torch.from_numpy(tokens).to(max_tokens.device), state)
        increments = _impossible_if_not_finite(_to_array(scored).astype(np.float64))
        allowed = increments.copy()
        allowed[:, list(blocked_ids)] = -np.inf
        loops.block(allowed)
        tokens = allowed.argmax(1)
        # Where nothing is possible, ending is what is left.
        ends = (step >= limits) | (allowed.max(1) == -np.inf)
        tokens[ends | ~live] = eos_id
        scores += np.where(live, increments[np.arange(len(tokens)), tokens], 0.0)
        live = live & (tokens != eos_id)
        if not live.any():
            break
        history.append(tokens)
        loops = loops.extend(None, tokens)
    rows = np.stack(history, 1).tolist() if history else [[] for _ in range(num_utterances)]
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
    limits = _check_max_tokens(max_tokens, num_utterances)
    if num_utterances == 0:
        return []
    weights = [weight for _, weight in scorers]
    size = len(limits), beam_size, nbest
    beams = _Beams(scorers, size, max_tokens.device, sos_id, eos_id)
    gain = max(length_bonus, 0.0) if min(weights) >= 0 else math.inf
    blocked = sorted({eos_id, *blocked_ids})
    for step in range(limits.max() + 1):
        totals = beams.score()  # (B, K, V)
        totals[..., blocked] = -np.inf
        beams.loops.block(totals.reshape(-1, totals.shape[2]))
        totals += length_bonus
        left = limits - step - 1
        totals[left < 0] = -np.inf
        # The most that a longer prefix can still win; 0 times an infinite gain is 0.
        hope = np.array([gain * more if more > 0 else 0.0 for more in left.tolist()])
        if not beams.grow(totals, hope, end_margin):
            break
    return beams.finished(weights)


class _Beams:
    """The live prefixes of all utterances, and all that a step has left behind.

    In NumPy: a step handles a few hundred numbers, where calls are what costs, and a call of
    PyTorch costs several times as much.
    """

    def __init__(
        self,
        scorers: Sequence[tuple[Scorer, float]],
        size: tuple[int, int, int],
        device: torch.device,
        sos_id: int,
        eos_id: int,
    ) -> None:
        batch, beam_size, nbest = size
        self.scorers = [(scorer, weight) for scorer, weight in scorers if weight != 0]
        if beam_size < 1 or nbest < 1 or not self.scorers:
            raise ValueError(
                f"beam search: beam_size {beam_size}, nbest {nbest} and {len(self.scorers)} "
                "scorers with a weight other than 0; wanted at least 1 of each"
            )
        self.device, self.eos_id = device, eos_id
        self.states = [scorer.initial_state(beam_size) for scorer, _ in self.scorers]
        self.tokens = torch.full((batch * beam_size,), sos_id, device=device)
        self.loops = _LoopGuard.start(batch * beam_size)
        # One empty prefix for each utterance; the other rows are dead until it has children.
        self.scores = np.full((batch, beam_size), -np.inf)
        self.scores[:, 0] = 0.0
        self.best = np.full((batch, nbest), -np.inf)
        self.rows = np.arange(batch)[:, None]
        self.increments: list[Array] = []  # of this step, each (B, K, V)
        # What each step has left behind, for the way back.
        self.closed: list[Array] = []  # (B, K) score with eos
        self.closed_parts: list[list[Array]] = []  # of each scorer (B, K)
        self.parents: list[Array] = []  # (B, K)
        self.taken: list[Array] = []  # (B, K) tokens
        self.taken_parts: list[list[Array]] = []

    def score(self) -> Array:
        """Run the scorers, close every live prefix, return the scores of longer ones (B, K, V)."""
        totals = self.scores[..., None]
        self.increments = []
        for number, (scorer, weight) in enumerate(self.scorers):
            scored, self.states[number] = scorer.score(self.tokens, self.states[number])
            increments = _to_array(scored).reshape(*self.scores.shape, -1)
            self.increments.append(increments)
            with np.errstate(invalid="ignore"):
                totals = totals + np.multiply(increments, weight, dtype=np.float64)
        totals = _impossible_if_not_finite(totals)
        closed = totals[..., self.eos_id].copy()
        self.closed.append(closed)
        self.closed_parts.append([i[..., self.eos_id].copy() for i in self.increments])
        ranked = np.sort(np.concatenate([self.best, closed], 1), 1)
        self.best = ranked[:, : -self.best.shape[1] - 1 : -1]
        return totals

    def grow(self, totals: Array, hope: Array, end_margin: float) -> bool:
        """Keep the best of the longer prefixes; return False when no utterance has any.

        Args:
            totals: (B, K, V) scores of the longer prefixes.
            hope: (B,) the most that a longer prefix can still win.
            end_margin: See `beam_search`.
        """
        batch, beam_size = self.scores.shape
        flat = totals.reshape(batch, -1)
        # A stable sort: of equal scores, the better prefix and then the lower token is first.
        order = np.argsort(-flat, axis=1, kind="stable")[:, :beam_size]
        scores = flat[self.rows, order]
        top, worst = scores[:, 0], self.best[:, -1]
        with np.errstate(invalid="ignore"):  # nothing possible, and any margin allowed
            over = (top + hope <= worst) | (top + end_margin < worst)
        scores[over] = -np.inf
        self.scores = scores
        if (scores[:, 0] == -np.inf).all():
            return False
        parents, tokens = np.divmod(order, totals.shape[2])
        self.parents.append(parents)
        self.taken.append(tokens)
        self.taken_parts.append([i.reshape(batch, -1)[self.rows, order] for i in self.increments])
        places = (parents + self.rows * beam_size).ravel()
        index = torch.from_numpy(places).to(self.device)
        self.tokens = torch.from_numpy(tokens.ravel()).to(self.device)
        self.states = [
            scorer.reorder(state, index)
            for (scorer, _), state in zip(self.scorers, self.states, strict=True)
        ]
        self.loops = self.loops.extend(places, tokens.ravel())
        return True

    def finished(self, weights: Sequence[float]) -> list[list[Hypothesis]]:
        """Collect the best closed prefixes; `weights` of all scorers, those not run included."""
        beam_size, nbest = self.scores.shape[1], self.best.shape[1]
        closed = np.stack(self.closed, 1).reshape(len(self.scores), -1)  # (B, steps * K)
        order = np.argsort(-closed, axis=1, kind="stable")[:, :nbest]
        ways = _Ways(self.parents, self.taken, self.taken_parts, self.closed_parts)
        best = zip(closed[self.rows, order].tolist(), order.tolist(), strict=True)
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
    """The steps of a search as arrays: (steps, B, K) or (steps, scorers, B, K)."""

    def __init__(
        self,
        parents: Sequence[Array],
        taken: Sequence[Array],
        taken_parts: Sequence[Sequence[Array]],
        closed_parts: Sequence[Sequence[Array]],
    ) -> None:
        self.parents, self.taken = _stack(parents), _stack(taken)
        self.taken_parts = np.array(taken_parts, dtype=np.float64)
        self.closed_parts = np.array(closed_parts, dtype=np.float64)

    def back(self, row: int, step: int, place: int) -> tuple[tuple[int, ...], list[float]]:
        """Walk back from a prefix closed at `step`: its tokens and the sum of each scorer."""
        sums = self.closed_parts[step, :, row, place].copy()
        tokens = []
        for earlier in reversed(range(step)):
            tokens.append(int(self.taken[earlier, row, place]))
            sums += self.taken_parts[earlier, :, row, place]
            place = self.parents[earlier, row, place]
        return tuple(reversed(tokens)), sums.tolist()


def _stack(steps: Sequence[Array]) -> Array:
    return np.stack(steps) if steps else np.zeros(0)


@dataclass(frozen=True, slots=True)
class _LoopGuard:
    """Knows the last tokens of each row, and for how long they have been repeating.

    Attributes:
        recent: (N, P) the last tokens, newest first; -1 before the first.
        repeated: (N, P) how many of the last tokens each equal the one p + 1 tokens before.
        limit: (P,) the value of `repeated` at which the next repetition is blocked.
    """

    recent: Array
    repeated: Array
    limit: Array

    @classmethod
    def start(cls, num_rows: int) -> _LoopGuard:
        block = np.arange(1, LONGEST_BLOCK + 1)
        # The first block of a run repeats nothing yet.
        limit = np.maximum(REPEATED_BLOCKS * block, REPEATED_TOKENS) - block
        recent = np.full((num_rows, LONGEST_BLOCK), -1)
        return cls(recent, np.zeros_like(recent), limit)

    def block(self, scores: Array) -> None:
        """Set `scores` (N, V) to -inf, in place, for tokens that would repeat once too often."""
        rows, blocks = (self.repeated >= self.limit).nonzero()
        scores[rows, self.recent[rows, blocks]] = -np.inf

    def extend(self, index: Array | None, tokens: Array) -> _LoopGuard:
        """Return the guard of rows that continue rows `index` (None: the same) by `tokens`."""
        recent = self.recent if index is None else self.recent[index]
        repeated = self.repeated if index is None else self.repeated[index]
        repeated = (repeated + 1) * (recent == tokens[:, None])
        recent = np.concatenate([tokens[:, None], recent[:, :-1]], 1)
        return _LoopGuard(recent, repeated, self.limit)


def _to_array(increments: Tensor) -> Array:
    if increments.dtype == torch.bfloat16:  # which NumPy does not know
        increments = increments.float()
    array: Array = increments.detach().cpu().numpy()
    return array


def _impossible_if_not_finite(scores: Array) -> Array:
    """Turn NaN and infinities (a negative weight times -inf) into -inf."""
    return np.where(np.isfinite(scores), scores, -np.inf)


def _check_max_tokens(max_tokens: Tensor, num_utterances: int) -> Array:
    limits: Array = max_tokens.cpu().numpy()
    if limits.shape != (num_utterances,) or (limits < 0).any():
        raise ValueError(
            f"search: max_tokens {limits.tolist()} for {num_utterances} utterances; "
            "wanted one number, 0 or more, for each"
        )
    return limits
