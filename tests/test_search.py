import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.ctc import CTCPrefixScorer
from asr.search import Hypothesis, Scorer, beam_search, greedy_search

BLANK, SOS, EOS = 0, 1, 2
Texts = list[tuple[int, ...]]


@dataclass
class TreeScorer:
    """A language of its own for each seed: a next token's score depends on all before it."""

    seeds: Sequence[int]
    vocabulary: int
    scale: float = 2.0
    known: dict[Any, Tensor] = field(default_factory=dict)

    def increments(self, seed: int, prefix: tuple[int, ...]) -> Tensor:
        if (seed, prefix) not in self.known:
            generator = torch.Generator().manual_seed(hash((seed, *prefix)) % 2**31)
            logits = self.scale * torch.randn(self.vocabulary, generator=generator)
            self.known[seed, prefix] = logits.log_softmax(-1)
        return self.known[seed, prefix]

    def initial_state(self, beam_size: int) -> Texts:
        return [()] * (len(self.seeds) * beam_size)

    def score(self, tokens: Tensor, state: Texts) -> tuple[Tensor, Texts]:
        state = [(*p, t) if t != SOS else p for p, t in zip(state, tokens.tolist(), strict=True)]
        beam_size = len(state) // len(self.seeds)
        rows = [self.increments(self.seeds[n // beam_size], p) for n, p in enumerate(state)]
        return torch.stack(rows), state

    def reorder(self, state: Texts, index: Tensor) -> Texts:
        return [state[n] for n in index.tolist()]


@dataclass
class TableScorer:
    """Increments that depend on the last token only: (V, V)."""

    table: Tensor
    batch: int = 1

    def initial_state(self, beam_size: int) -> None:
        return None

    def score(self, tokens: Tensor, state: None) -> tuple[Tensor, None]:
        return self.table[tokens], None

    def reorder(self, state: None, index: Tensor) -> None:
        return None


def search(scorers: Sequence[tuple[Scorer, float]], limits: list[int], **options: Any) -> Any:
    options = {"beam_size": 4, "sos_id": SOS, "eos_id": EOS} | options
    return beam_search(scorers, len(limits), torch.tensor(limits), **options)


def exhaustive(
    scorers: Sequence[tuple[TreeScorer, float]], row: int, limit: int, bonus: float
) -> list[Hypothesis]:
    """Score every text there is, best first."""
    found = []
    for length in range(limit + 1):
        for text in itertools.product(range(3, scorers[0][0].vocabulary), repeat=length):
            parts = tuple(
                sum(
                    scorer.increments(scorer.seeds[row], text[:i])[token].item()
                    for i, token in enumerate((*text, EOS))
                )
                for scorer, _ in scorers
            )
            score = sum(w * part for part, (_, w) in zip(parts, scorers, strict=True))
            found.append(Hypothesis(text, score + bonus * length, parts))
    return sorted(found, key=lambda h: -h.score)


class TestBeamSearch:
    @pytest.mark.parametrize("bonus", [0.0, 1.5, -0.5])
    @pytest.mark.parametrize("weights", [(1.0, 0.5), (0.7, 0.3), (1.0, -0.4)])
    def test_wide_beam_is_exhaustive_search(self, bonus: float, weights: tuple[float]) -> None:
        limits = [4, 0, 3, 1]
        scorers = [
            (TreeScorer([10 * n + row for row in range(4)], 6), weight)
            for n, weight in enumerate(weights)
        ]
        found = search(scorers, limits, beam_size=81, nbest=5, length_bonus=bonus)
        for row, limit in enumerate(limits):
            wanted = exhaustive(scorers, row, limit, bonus)[:5]
            assert [h.tokens for h in found[row]] == [h.tokens for h in wanted]
            for ours, truth in zip(found[row], wanted, strict=True):
                assert ours.score == pytest.approx(truth.score, abs=1e-5)
                assert ours.parts == pytest.approx(truth.parts, abs=1e-5)

    @given(st.integers(0, 10**6), st.floats(-1, 2), st.integers(1, 12))
    @settings(deadline=None, max_examples=30)
    def test_no_beam_beats_the_widest(self, seed: int, bonus: float, beam_size: int) -> None:
        scorers = [(TreeScorer([seed], 5), 1.0)]
        [best] = exhaustive(scorers, 0, 5, bonus)[:1]
        [[narrow]] = search(scorers, [5], beam_size=beam_size, length_bonus=bonus)
        [[wide]] = search(scorers, [5], beam_size=32, length_bonus=bonus)
        assert wide.tokens == best.tokens
        assert narrow.score <= wide.score + 1e-9
        assert len(narrow.tokens) <= 5
        parts = sum(narrow.parts) + bonus * len(narrow.tokens)
        assert narrow.score == pytest.approx(parts, abs=1e-9)

    def test_batch_is_as_single(self) -> None:
        limits, seeds = [9, 3, 0, 7, 9], [5, 6, 7, 8, 5]
        options = {"beam_size": 3, "nbest": 3, "length_bonus": 0.3, "end_margin": 4.0}
        together = search([(TreeScorer(seeds, 7), 1.0)], limits, **options)
        for row, (seed, limit) in enumerate(zip(seeds, limits, strict=True)):
            assert search([(TreeScorer([seed], 7), 1.0)], [limit], **options) == [together[row]]
        assert together[0] == together[4]

    def test_no_tokens_allowed_gives_the_empty_hypothesis(self) -> None:
        scorer = TreeScorer([1], 5)
        [[only]] = search([(scorer, 2.0)], [0], nbest=3, length_bonus=9.0)
        eos = scorer.increments(1, ())[EOS].item()
        assert only == Hypothesis((), 2 * eos, (eos,))

    def test_blocked_tokens_and_scorers_without_weight(self) -> None:
        table = torch.full((5, 5), -9.0)
        table[:, BLANK] = table[:, SOS] = 0.0
        table[:, 3] = -1.0
        never = TableScorer(torch.full((5, 5), math.nan))
        [[best]] = search([(never, 0.0), (TableScorer(table), 1.0)], [2])
        assert best.tokens == () and best.parts == (0.0, -9.0)
        [[best]] = search([(TableScorer(table), 1.0)], [2], length_bonus=2.0, blocked_ids=(3,))
        assert best.tokens == (BLANK, BLANK)

    @pytest.mark.parametrize("nothing", [-math.inf, math.nan])
    def test_impossible_tokens(self, nothing: float) -> None:
        table = torch.full((6, 6), nothing)
        table[SOS, 3] = table[3, 4] = table[4, 5] = -1.0
        assert search([(TableScorer(table), 1.0)], [9]) == [
            [Hypothesis((), -math.inf, (-math.inf,))]
        ]
        table[5, EOS] = -1.0
        for bonus in (0.0, 1.0):
            [[only]] = search([(TableScorer(table), 1.0)], [9], nbest=1, length_bonus=bonus)
            assert only == Hypothesis((3, 4, 5), -4.0 + 3 * bonus, (-4.0,))
        # A negative weight makes no impossible token possible.
        flat = TableScorer(torch.full((6, 6), -1.0))
        [[only]] = search([(flat, 1.0), (TableScorer(table), -0.5)], [9])
        assert only.tokens == (3, 4, 5)

    def test_equal_scores_have_a_fixed_order(self) -> None:
        flat = TableScorer(torch.full((6, 6), -1.0))
        [first] = search([(flat, 1.0)], [2], nbest=6, beam_size=9)
        assert [h.tokens for h in first] == [(), (3,), (4,), (5,), (3, 3), (3, 4)]

    def test_stops_when_nothing_can_win_any_more(self) -> None:
        table = torch.full((5, 5), -1.0)
        table[3, EOS], table[SOS, EOS] = -0.1, -5.0
        calls = []

        class Counted(TableScorer):
            def score(self, tokens: Tensor, state: None) -> tuple[Tensor, None]:
                calls.append(len(tokens))
                return super().score(tokens, state)

        [[best]] = search([(Counted(table), 1.0)], [500])
        assert best.tokens == (3,) and calls == [4] * 2
        calls.clear()
        # With a bonus longer ones could win: they do, at the limit.
        [[best]] = search([(Counted(table), 1.0)], [30], length_bonus=1.01)
        assert len(best.tokens) == 30 and len(calls) == 31
        calls.clear()
        [[best]] = search([(Counted(table), 1.0)], [500], length_bonus=0.5, end_margin=3.0)
        assert best.tokens == (3,) and len(calls) < 10

    def test_never_loops(self) -> None:
        table = torch.full((30, 30), -8.0)
        for token in range(3, 29):
            table[token, token + 1] = -0.01
        table[29, 3] = table[SOS, 3] = -0.01  # 27 tokens round and round
        table[:, EOS] = -12.0
        for found in (
            search([(TableScorer(table), 1.0)], [400], length_bonus=0.5)[0][0],
            greedy_search(TableScorer(table), 1, torch.tensor([400]), SOS, EOS)[0],
        ):
            assert found.tokens[:108] == tuple(range(3, 30)) * 4
            assert found.tokens[: 108 + 1] != tuple(range(3, 30)) * 4 + (3,)

    @pytest.mark.parametrize(("block", "times"), [(3, 10), (1, 32), (7, 4), (20, 4), (64, 4)])
    def test_some_repetition_is_speech(self, block: int, times: int) -> None:
        text = tuple(range(3, 3 + block)) * times
        script = TreeScorer([0], block + 4)
        for allowed in (text, (*text, *text)):
            script.known.clear()
            for i, token in enumerate((*allowed, EOS)):
                row = torch.full((block + 4,), -math.inf)
                row[token] = -0.1
                script.known[0, allowed[:i]] = row
            [[found]] = search([(script, 1.0)], [999], beam_size=1)
            [greedy] = greedy_search(script, 1, torch.tensor([999]), SOS, EOS)
            # Twice as often is no speech, and this script has no other way out.
            assert (found.tokens == allowed) == (greedy.score > -math.inf) == (allowed == text)

    def test_sizes_are_checked(self) -> None:
        scorer = TreeScorer([1], 5)
        with pytest.raises(ValueError, match="beam_size 0"):
            search([(scorer, 1.0)], [3], beam_size=0)
        with pytest.raises(ValueError, match="0 scorers"):
            search([(scorer, 0.0)], [3])
        with pytest.raises(ValueError, match=r"\[-1\] for 1 utterances"):
            search([(scorer, 1.0)], [-1])
        assert search([(TreeScorer([], 5), 1.0)], []) == []

    def test_with_ctc_prefix_scores(self) -> None:
        """A wide beam finds the text that is best by the sum over all its alignments."""
        generator = torch.Generator().manual_seed(3)
        log_probs = (2 * torch.randn(2, 5, 5, generator=generator)).log_softmax(-1)
        lengths = torch.tensor([5, 4])
        found = search(
            [(CTCPrefixScorer(log_probs, lengths, BLANK, EOS), 1.0)], [5, 5], beam_size=40, nbest=4
        )
        for row, frames in enumerate(lengths.tolist()):
            sums: dict[tuple[int, ...], float] = {}
            for path in itertools.product(range(5), repeat=frames):
                text = tuple(k for k, _ in itertools.groupby(path) if k != BLANK)
                prob = math.exp(sum(log_probs[row, t, k].item() for t, k in enumerate(path)))
                if SOS not in text and EOS not in text:
                    sums[text] = sums.get(text, 0.0) + prob
            wanted = sorted(sums, key=lambda text: -sums[text])[:4]
            assert [h.tokens for h in found[row]] == wanted
            assert [h.score for h in found[row]] == pytest.approx(
                [math.log(sums[t]) for t in wanted]
            )

    def test_overhead(self) -> None:
        scorer = TableScorer(torch.randn(31, 31, generator=torch.Generator().manual_seed(0)) - 9)
        scorer.table[:, EOS] = -99.0
        limits = [100] * 8
        start = time.perf_counter()
        search([(scorer, 0.7), (scorer, 0.3)], limits, beam_size=8, length_bonus=20.0)
        per_step = (time.perf_counter() - start) / 100
        assert per_step < 0.01  # 0.0005 on an idle machine


class TestGreedySearch:
    def test_takes_the_best_token_each_time(self) -> None:
        seeds, limits = list(range(8)), [6, 6, 0, 2, 6, 6, 6, 1]
        scorer = TreeScorer(seeds, 6)
        found = greedy_search(scorer, 8, torch.tensor(limits), SOS, EOS)
        for seed, limit, hypothesis in zip(seeds, limits, found, strict=True):
            text: tuple[int, ...] = ()
            score = 0.0
            while True:
                row = scorer.increments(seed, text).clone()
                row[[BLANK, SOS]] = -math.inf
                token = EOS if len(text) == limit else int(row.argmax())
                score += row[token].item()
                if token == EOS:
                    break
                text = (*text, token)
            assert hypothesis.tokens == text
            assert hypothesis.score == pytest.approx(score, abs=1e-5)
            assert hypothesis.parts == (hypothesis.score,)

    def test_nothing_possible(self) -> None:
        scorer = TableScorer(torch.full((5, 5), math.nan))
        found = greedy_search(scorer, 1, torch.tensor([7]), SOS, EOS)
        assert found == [Hypothesis((), -math.inf, (-math.inf,))]
        assert greedy_search(TreeScorer([], 5), 0, torch.zeros(0, dtype=torch.long), SOS, EOS) == []
