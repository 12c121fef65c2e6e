import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.ctc import CTCPrefixScorer, ctc_feasible, ctc_loss, forced_align, greedy_decode

BLANK, SOS, EOS = 0, 1, 2


def random_log_probs(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).log_softmax(-1)


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def all_paths(log_probs: Tensor) -> dict[tuple[int, ...], float]:
    """Every path through (S, V) and its log-probability."""
    rows = log_probs.tolist()
    paths = itertools.product(range(len(rows[0]) if rows else 0), repeat=len(rows))
    return {p: sum(r[label] for r, label in zip(rows, p, strict=True)) for p in paths}


def log_sum(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).logsumexp(0).item() if values else -math.inf


def slow_prefix(log_probs: Tensor, prefix: list[int]) -> tuple[float, float]:
    """The recursion over frames: log-probability of the prefix, and of exactly that text."""
    frames = log_probs.double()
    minus = torch.tensor(-math.inf, dtype=torch.float64)
    blank = [torch.tensor(0.0, dtype=torch.float64)]
    for t in range(len(frames)):
        blank.append(blank[-1] + frames[t, BLANK])
    nonblank, total, last = [minus] * len(blank), torch.tensor(0.0, dtype=torch.float64), None
    for token in prefix:
        new_nonblank, new_blank, starts = [minus], [minus], []
        for t in range(len(frames)):
            start = blank[t] if token == last else torch.logaddexp(blank[t], nonblank[t])
            starts.append(start + frames[t, token])
            both = torch.logaddexp(new_blank[t], new_nonblank[t])
            new_blank.append(both + frames[t, BLANK])
            new_nonblank.append(torch.logaddexp(new_nonblank[t] + frames[t, token], starts[-1]))
        total = torch.stack(starts).logsumexp(0) if starts else minus
        nonblank, blank, last = new_nonblank, new_blank, token
    return total.item(), torch.logaddexp(nonblank[-1], blank[-1]).item()


def walk(scorer: CTCPrefixScorer, prefix: list[int], batch: int = 1) -> tuple[Tensor, Tensor]:
    """Feed a prefix to every utterance: its log-probability (B,), next increments (B, V)."""
    state = scorer.initial_state(1)
    increments, state = scorer.score(torch.full((batch,), SOS), state)
    total = torch.zeros(batch, dtype=torch.float64)
    for token in prefix:
        total = total + increments[:, token]
        increments, state = scorer.score(torch.full((batch,), token), state)
    return total, increments


class TestLoss:
    def test_is_the_sum_over_all_paths(self) -> None:
        log_probs = random_log_probs(1, 5, 4)
        for text in [(), (3,), (3, 3), (2, 3, 2), (3, 3, 3)]:
            tokens = torch.tensor([(*text, 9)])
            loss = ctc_loss(log_probs, torch.tensor([5]), tokens, torch.tensor([len(text)]))
            wanted = -log_sum(
                [s for p, s in all_paths(log_probs[0]).items() if collapse(p) == text]
            )
            assert loss.item() == pytest.approx(wanted, abs=1e-4)

    def test_too_short_utterances_give_nothing(self) -> None:
        log_probs = random_log_probs(3, 4, 5).requires_grad_()
        lengths, tokens = torch.tensor([4, 2, 3]), torch.tensor([[3, 4, 0], [3, 4, 3], [3, 3, 4]])
        token_lengths = torch.tensor([2, 3, 3])
        assert ctc_feasible(tokens, token_lengths, lengths).tolist() == [True, False, False]
        loss = ctc_loss(log_probs, lengths, tokens, token_lengths)
        assert loss[0] > 0 and loss[1:].tolist() == [0, 0]
        loss.sum().backward()
        assert log_probs.grad is not None and log_probs.grad.isfinite().all()
        assert log_probs.grad[0].abs().sum() > 0 and log_probs.grad[1:].abs().sum() == 0

    def test_half_precision(self) -> None:
        log_probs, tokens = random_log_probs(2, 9, 5), torch.tensor([[3, 4], [4, 4]])
        sizes = torch.tensor([9, 8]), tokens, torch.tensor([2, 2])
        assert torch.allclose(
            ctc_loss(log_probs, *sizes), ctc_loss(log_probs.bfloat16(), *sizes), 0.05
        )

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(B, S, V\)"):
            ctc_loss(torch.zeros(3, 4), torch.ones(3), torch.ones(3, 2), torch.ones(3))
        with pytest.raises(ValueError, match=r"\(2, 2, 3, 2\)"):
            ctc_loss(torch.zeros(2, 3, 4), torch.ones(2), torch.ones(3, 2), torch.ones(2))

    def test_feasible_ignores_repeats_in_padding(self) -> None:
        tokens = torch.tensor([[3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 0, 0]])
        feasible = ctc_feasible(tokens, torch.tensor([2, 2, 0]), torch.tensor([3, 2, 0]))
        assert feasible.tolist() == [True, False, True]
        assert ctc_feasible(tokens[:, :0], torch.zeros(3), torch.zeros(3)).all()


class TestGreedy:
    @given(st.lists(st.lists(st.integers(0, 4), max_size=8), min_size=1, max_size=4))
    @settings(deadline=None)
    def test_is_the_collapsed_best_path(self, paths: list[list[int]]) -> None:
        lengths = torch.tensor([len(path) for path in paths])
        labels = torch.tensor([path + [3] * (9 - len(path)) for path in paths])
        log_probs = torch.nn.functional.one_hot(labels, 5).float().log_softmax(-1)
        assert greedy_decode(log_probs, lengths) == [list(collapse(tuple(p))) for p in paths]

    def test_no_frames(self) -> None:
        assert greedy_decode(torch.zeros(2, 0, 4), torch.tensor([0, 0])) == [[], []]


class TestForcedAlign:
    @pytest.mark.parametrize("seed", range(5))
    def test_is_the_best_of_all_paths(self, seed: int) -> None:
        log_probs = random_log_probs(1, 6, 5, seed=seed)
        for text in [(3,), (3, 3), (3, 4, 3), (4, 4, 3), (3, 4, 3, 4, 3, 4)]:
            paths = {p: s for p, s in all_paths(log_probs[0]).items() if collapse(p) == text}
            best, frame, wanted = max(paths, key=lambda p: paths[p]), 0, []
            for label, run in itertools.groupby(best):
                frames = [frame + i for i, _ in enumerate(run)]
                frame += len(frames)
                if label != BLANK:
                    wanted.append(max(frames, key=lambda t: log_probs[0, t, label].item()))
            tokens = torch.tensor([text])
            found = forced_align(log_probs, torch.tensor([6]), tokens, torch.tensor([len(text)]))
            assert found.tolist() == [wanted]

    def test_batch_is_as_single_whatever_the_padding(self) -> None:
        log_probs = random_log_probs(4, 30, 8, seed=1)
        lengths, token_lengths = torch.tensor([30, 11, 3, 20]), torch.tensor([9, 4, 3, 0])
        tokens = torch.randint(3, 8, (4, 9), generator=torch.Generator().manual_seed(2))
        tokens[2, :3] = 5  # needs five frames, has three
        together = forced_align(log_probs, lengths, tokens, token_lengths)
        assert together.dtype == torch.int64 and together.shape == (4, 9)
        assert together[2].tolist() == together[3].tolist() == [-1] * 9
        assert (together[1, 4:] == -1).all() and (together[0].diff() > 0).all()
        assert together[1, :4].min() >= 0 and together[1].max() < 11
        for row in range(4):
            frames, count = int(lengths[row]), int(token_lengths[row])
            alone = forced_align(
                log_probs[row : row + 1, :frames],
                lengths[row : row + 1],
                tokens[row : row + 1, :count],
                token_lengths[row : row + 1],
            )
            assert alone.tolist() == [together[row, :count].tolist()]

    def test_takes_no_gradient_and_half_precision(self) -> None:
        log_probs = random_log_probs(1, 5, 4).bfloat16().requires_grad_()
        sizes = torch.tensor([5]), torch.tensor([[3, 2]]), torch.tensor([2])
        found = forced_align(log_probs, *sizes)
        assert not found.requires_grad and (found >= 0).all()

    def test_blank_in_the_text(self) -> None:
        with pytest.raises(ValueError, match="blank"):
            forced_align(
                random_log_probs(1, 5, 4), torch.tensor([5]), torch.tensor([[0]]), torch.tensor([1])
            )


class TestPrefixScorer:
    @pytest.mark.parametrize("seed", range(3))
    def test_is_the_sum_over_all_paths(self, seed: int) -> None:
        log_probs = random_log_probs(1, 5, 5, seed=seed)
        paths = [(collapse(p), s) for p, s in all_paths(log_probs[0]).items()]
        scorer = CTCPrefixScorer(log_probs, torch.tensor([5]), BLANK, EOS, sos_id=SOS)
        for length in range(4):
            for prefix in itertools.product((3, 4), repeat=length):
                whole = log_sum([s for text, s in paths if text[:length] == prefix])
                exact = log_sum([s for text, s in paths if text == prefix])
                total, increments = walk(scorer, list(prefix))
                if whole == -math.inf:
                    assert total.item() == -math.inf and (increments == -math.inf).all()
                    continue
                assert total.item() == pytest.approx(whole, abs=1e-6)
                assert increments[0, EOS].item() == pytest.approx(exact - whole, abs=1e-6)
                assert increments[0, BLANK] == increments[0, SOS] == -math.inf
                for token in (3, 4):
                    longer = (*prefix, token)
                    wanted = log_sum([s for text, s in paths if text[: length + 1] == longer])
                    got = total.item() + increments[0, token].item()
                    assert got == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize(("frames", "scale"), [(40, 1.0), (60, 8.0), (200, 3.0)])
    def test_is_the_slow_recursion(self, frames: int, scale: float) -> None:
        log_probs = random_log_probs(1, frames, 7, seed=frames, scale=scale)
        prefix = [3, 3, 5, 6, 6, 6, 4, 3, 5, 5, 4]
        scorer = CTCPrefixScorer(log_probs, torch.tensor([frames]), BLANK, EOS)
        for length in (0, 1, 2, 7, len(prefix)):
            whole, exact = slow_prefix(log_probs[0], prefix[:length])
            total, increments = walk(scorer, prefix[:length])
            assert total.item() == pytest.approx(whole, abs=1e-8)
            assert total.item() + increments[0, EOS].item() == pytest.approx(exact, abs=1e-8)

    def test_very_long_utterances(self) -> None:
        # Cumulative sums of -3e4 and more, and prefixes far too short for the speech.
        log_probs = random_log_probs(1, 3000, 6, seed=7, scale=10.0)
        prefix = [3, 4, 4, 5]
        whole, exact = slow_prefix(log_probs[0], prefix)
        scorer = CTCPrefixScorer(log_probs, torch.tensor([3000]), BLANK, EOS)
        total, increments = walk(scorer, prefix)
        assert exact < -1e4
        assert total.item() == pytest.approx(whole, abs=1e-7)
        assert total.item() + increments[0, EOS].item() == pytest.approx(exact, abs=1e-7)

    def test_batch_is_as_single_and_padding_does_not_count(self) -> None:
        lengths = torch.tensor([12, 5, 0, 1])
        log_probs = random_log_probs(4, 12, 6, seed=3)
        for row, length in enumerate(lengths.tolist()):
            log_probs[row, length:] = math.nan
        batch = CTCPrefixScorer(log_probs, lengths, BLANK, EOS)
        prefix = [3, 4, 4]
        for length in range(4):
            total, increments = walk(batch, prefix[:length], batch=4)
            assert not increments.isnan().any()
            for row, frames in enumerate(lengths.tolist()):
                cut = log_probs[row : row + 1, :frames]
                alone = CTCPrefixScorer(cut, lengths[row : row + 1], BLANK, EOS)
                alone_total, alone_increments = walk(alone, prefix[:length])
                assert torch.allclose(total[row], alone_total[0], rtol=1e-10)
                assert torch.allclose(increments[row], alone_increments[0], rtol=1e-9)
        _, first = walk(batch, [], batch=4)
        assert first[2, EOS] == 0 and (first[2, 3:] == -math.inf).all()

    def test_certain_labels(self) -> None:
        labels = torch.tensor([[3, 0, 3, 4]])
        log_probs = torch.nn.functional.one_hot(labels, 5).float().log()  # 0 and -inf
        scorer = CTCPrefixScorer(log_probs, torch.tensor([4]), BLANK, EOS)
        total, increments = walk(scorer, [3, 3, 4])
        assert total.item() == 0 and increments[0, EOS].item() == 0
        total, increments = walk(scorer, [4, 3])
        assert total.item() == -math.inf and (increments == -math.inf).all()

    def test_reorder(self) -> None:
        log_probs, lengths = random_log_probs(2, 9, 6, seed=5), torch.tensor([9, 7])
        scorer = CTCPrefixScorer(log_probs, lengths, BLANK, EOS)
        state = scorer.reorder(scorer.initial_state(2), torch.tensor([1, 0, 2, 2]))
        _, state = scorer.score(torch.full((4,), SOS), state)
        _, state = scorer.score(torch.tensor([3, 4, 4, 5]), state)
        state = scorer.reorder(state, torch.tensor([1, 1, 3, 2]))
        increments, _ = scorer.score(torch.tensor([4, 3, 3, 4]), state)
        for row, prefix in enumerate([[4, 4], [4, 3], [5, 3], [4, 4]]):
            wanted = walk(scorer, prefix, batch=2)[1][row // 2]
            assert torch.allclose(increments[row], wanted, rtol=1e-10)

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(3,\).*wanted"):
            CTCPrefixScorer(torch.zeros(2, 3, 4), torch.ones(3), BLANK, EOS)


def test_forced_align_leaves_out_an_utterance_with_nan() -> None:
    log_probs = torch.randn(2, 6, 5).log_softmax(2)
    log_probs[0, 2, 3] = float("nan")
    tokens = torch.tensor([[3, 4], [3, 4]])
    frames = forced_align(log_probs, torch.tensor([6, 6]), tokens, torch.tensor([2, 2]))
    assert frames[0].tolist() == [-1, -1]
    assert (frames[1] >= 0).all()
