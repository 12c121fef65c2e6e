"""The random field against sums over every path and every text."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from asr import crf
from asr.crf import crf_loss, label_trigram
from asr.ctc import ctc_loss

LABELS = 4
TEXTS = [[1, 2, 3], [1, 1, 2], [3, 2], [2]]


def weigh(text: tuple[int, ...] | list[int], trigram: Tensor) -> float:
    padded = (0, 0, *text, 0)
    weight = 1.0
    for a, b, c in zip(padded, padded[1:], padded[2:], strict=False):
        weight *= float(trigram[a, b, c])
    return weight


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k for i, k in enumerate(path) if k and (i == 0 or path[i - 1] != k))


def sum_of_all_paths(log_probs: Tensor, trigram: Tensor) -> Tensor:
    """Return log Z of one utterance (S, V), path by path."""
    weights = []
    for path in itertools.product(range(LABELS), repeat=len(log_probs)):
        acoustic = torch.stack([log_probs[s, label] for s, label in enumerate(path)]).sum()
        weights.append(acoustic.exp() * weigh(collapse(path), trigram))
    return torch.stack(weights).sum().log()


def utterances() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 5, LABELS, dtype=torch.float64).log_softmax(2)
    return log_probs.requires_grad_(), torch.tensor([5, 3, 4])


def test_a_trigram_is_a_distribution_and_counts() -> None:
    trigram = label_trigram(TEXTS, LABELS)
    assert trigram.shape == (LABELS,) * 3
    assert (trigram > 0).all()
    torch.testing.assert_close(trigram.sum(2), torch.ones(LABELS, LABELS))
    assert trigram[0, 0].argmax() == 1  # two of four begin so
    assert trigram[3, 2].argmax() == 0  # and end so
    assert trigram[1, 2, 3] > trigram[1, 2, 1]


def test_without_texts_every_label_is_as_likely() -> None:
    assert label_trigram([], LABELS).allclose(torch.tensor(1 / LABELS))


@pytest.mark.parametrize("way", ["utterance by utterance", "all at once"])
def test_the_loss_is_that_of_all_paths_with_its_gradient(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "all at once":  # as on a GPU
        monkeypatch.setattr(crf, "_sums_of_cpu", crf._sums_of_all)
    log_probs, lengths = utterances()
    tokens, token_lengths = torch.tensor([[1, 1, 2], [3, 2, 9], [2, 9, 9]]), torch.tensor([3, 2, 1])
    trigram = label_trigram(TEXTS, LABELS)
    found = crf_loss(log_probs, lengths, tokens, token_lengths, trigram)
    acoustic = ctc_loss(log_probs, lengths, tokens, token_lengths)
    wanted = [
        acoustic[row]
        - torch.tensor(weigh(tokens[row, :length].tolist(), trigram)).log()
        + sum_of_all_paths(log_probs[row, : lengths[row]], trigram)
        for row, length in enumerate(token_lengths.tolist())
    ]
    torch.testing.assert_close(found, torch.stack(wanted).float(), rtol=1e-4, atol=1e-5)
    assert (found > 0).all()
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), log_probs)[0],
        torch.autograd.grad(sum(wanted), log_probs)[0],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_what_is_given_up_weighs_next_to_nothing() -> None:
    torch.manual_seed(1)
    labels = 30
    texts = [torch.randint(1, labels, (20,)).tolist() for _ in range(300)]
    given = (torch.tensor([60, 41]), label_trigram(texts, labels), True)
    for sure in (0.0, 2.0, 6.0):  # from a network that knows nothing to one that knows
        log_probs = (sure * torch.randn(2, 60, labels)).log_softmax(2)
        found, wanted = crf._sums_of_cpu(log_probs, *given), crf._sums_of_all(log_probs, *given)
        torch.testing.assert_close(found[0], wanted[0], atol=0.03, rtol=0)
        assert (found[1] - wanted[1]).abs().sum(2).max() < 0.03
        assert (found[1] - wanted[1]).abs().sum(2).mean() < 0.003


def test_without_a_gradient_only_the_sum_is_made() -> None:
    log_probs, lengths = utterances()
    trigram = label_trigram(TEXTS, LABELS)
    given = (lengths, torch.tensor([[1, 2]] * 3), torch.tensor([2, 2, 2]), trigram)
    with_gradient = crf_loss(log_probs, *given)
    with torch.no_grad():
        assert torch.equal(crf_loss(log_probs, *given), with_gradient)


def test_padding_and_neighbours_do_not_count() -> None:
    log_probs, lengths = utterances()
    trigram = label_trigram(TEXTS, LABELS)
    tokens, token_lengths = torch.tensor([[1, 2], [3, 2], [2, 2]]), torch.tensor([2, 2, 1])
    together = crf_loss(log_probs, lengths, tokens, token_lengths, trigram)
    (gradient,) = torch.autograd.grad(together.sum(), log_probs)
    assert not gradient[1, 3:].any() and not gradient[2, 4:].any()
    alone = crf_loss(log_probs[1:2, :3], lengths[1:2], tokens[1:2], token_lengths[1:2], trigram)
    torch.testing.assert_close(together[1:2], alone)


def test_a_text_too_long_for_its_frames_gives_nothing() -> None:
    log_probs, lengths = utterances()
    tokens, token_lengths = torch.tensor([[1, 2, 3, 1, 2, 3]] * 3), torch.tensor([6, 2, 2])
    losses = crf_loss(log_probs, lengths, tokens, token_lengths, label_trigram(TEXTS, LABELS))
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    assert losses[0] == 0 and not gradient[0].any()
    assert losses[1] > 0 and gradient[1].any()


def test_long_and_sure_utterances_stay_finite() -> None:
    log_probs = torch.full((1, 2000, LABELS), -60.0)
    log_probs[0, torch.arange(2000), torch.arange(2000) % LABELS] = 0.0
    log_probs.requires_grad_()
    tokens = torch.arange(2000)[None] % LABELS
    tokens = tokens[tokens > 0][None]
    lengths, trigram = torch.tensor([2000]), label_trigram(TEXTS, LABELS)
    loss = crf_loss(log_probs, lengths, tokens, torch.tensor([tokens.shape[1]]), trigram)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    assert loss.item() == pytest.approx(0.0, abs=0.5)
    assert gradient.isfinite().all()


def test_reduced_precision_around_it_does_not_reach_it() -> None:
    log_probs, lengths = utterances()
    trigram = label_trigram(TEXTS, LABELS)
    given = (log_probs, lengths, torch.tensor([[1, 2]] * 3), torch.tensor([2, 2, 2]), trigram)
    plain = crf_loss(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(crf_loss(*given), plain)
