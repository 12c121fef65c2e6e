"""Trigrams of labels, and what they leave of a recording's labels, against every path."""

from __future__ import annotations

import torch
from all_paths import LABELS, TEXTS, sum_of_all_paths, utterances

from asr.trellis import label_posteriors, label_trigram, sum_paths


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


def test_posteriors_are_the_shares_of_all_paths_that_pass_a_label() -> None:
    log_probs, lengths = utterances()
    trigram = label_trigram(TEXTS, LABELS)
    found = label_posteriors(log_probs.detach(), lengths, trigram)
    for row, length in enumerate(lengths.tolist()):
        total = sum_of_all_paths(log_probs[row, :length], trigram)
        (wanted,) = torch.autograd.grad(total, log_probs)
        torch.testing.assert_close(found[row], wanted[row].float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[row, :length].sum(1), torch.ones(length))
    assert not found[1, 3:].any() and not found[2, 4:].any()
    # What a GPU computes, for all utterances at once.
    together = sum_paths(log_probs.detach().float(), lengths, trigram, occupied=True)[1]
    torch.testing.assert_close(together, found, rtol=1e-4, atol=1e-5)


def test_posteriors_follow_the_texts_where_frames_are_in_doubt() -> None:
    # The second of three labels may be any; behind 1 every text goes on with 2.
    log_probs = torch.full((1, 3, LABELS), -20.0)
    log_probs[0, 0, 1] = log_probs[0, 2, 3] = 0.0
    log_probs[0, 1, 1:] = torch.tensor([0.4, 0.25, 0.35]).log()
    lengths = torch.tensor([3])
    trigram = label_trigram([[1, 2, 3]] * 20, LABELS)
    found = label_posteriors(log_probs, lengths, trigram)
    assert log_probs[0, 1].argmax() == 1 and found[0, 1].argmax() == 2
    assert found[0, 1, 2] > 0.9


def test_reduced_precision_around_them_does_not_reach_them() -> None:
    log_probs, lengths = utterances()
    given = (log_probs.detach(), lengths, label_trigram(TEXTS, LABELS))
    plain = label_posteriors(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(label_posteriors(*given), plain)
