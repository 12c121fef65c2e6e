"""Error rates against a hand-written edit distance, intervals against a slow loop."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.score import (
    ErrorCounts,
    PairedDifference,
    bootstrap_interval,
    paired_bootstrap,
    score_utterance,
    score_utterances,
)

TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "it's"]), max_size=7).map(" ".join)


def edit_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Fill the whole table, as in a textbook."""
    table = [[0] * (len(hypothesis) + 1) for _ in range(len(reference) + 1)]
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                replace = table[i - 1][j - 1] + (reference[i - 1] != hypothesis[j - 1])
                table[i][j] = min(replace, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


@given(TEXTS, TEXTS)
def test_errors_are_the_edit_distance(reference: str, hypothesis: str) -> None:
    score = score_utterance("u", reference, hypothesis)
    assert score.words.errors == edit_distance(reference.split(), hypothesis.split())
    assert score.words.reference_length == len(reference.split())
    assert score.chars.errors == edit_distance(list(reference), list(hypothesis))
    assert score.chars.reference_length == len(reference)


@given(TEXTS, TEXTS)
def test_the_alignment_spells_both_texts_and_agrees_with_the_counts(
    reference: str, hypothesis: str
) -> None:
    score = score_utterance("u", reference, hypothesis)
    assert [said for _, said, _ in score.alignment if said] == reference.split()
    assert [heard for _, _, heard in score.alignment if heard] == hypothesis.split()
    operations = [operation for operation, _, _ in score.alignment]
    assert operations.count("hit") == score.words.hits
    assert operations.count("substitution") == score.words.substitutions
    assert operations.count("deletion") == score.words.deletions
    assert operations.count("insertion") == score.words.insertions
    for operation, said, heard in score.alignment:
        assert (operation == "hit") == (said == heard)


def test_a_known_example() -> None:
    score = score_utterance("u1", "one two three four five six", "one too three five six seven")
    assert score.words == ErrorCounts(substitutions=1, deletions=1, insertions=1, hits=4)
    assert score.words.rate == pytest.approx(3 / 6)
    assert score.to_json()["alignment"][1] == ["substitution", "two", "too"]


def test_empty_references_count_insertions() -> None:
    assert score_utterance("u", "", "").words == ErrorCounts()
    assert score_utterance("u", "", "").words.rate == 0.0
    heard = score_utterance("u", "", "oh no")
    assert heard.words == ErrorCounts(insertions=2)
    assert heard.words.rate == math.inf
    assert heard.alignment == (("insertion", "", "oh"), ("insertion", "", "no"))


def test_a_set_is_a_ratio_of_sums_not_a_mean_of_rates() -> None:
    score = score_utterances([("1", "a b c d", "a b c d"), ("2", "a", "b"), ("3", "", "x")])
    assert score.wer == pytest.approx(2 / 5)
    assert score.words == ErrorCounts(substitutions=1, insertions=1, hits=4)
    assert score.cer == pytest.approx(2 / 8)
    assert score.wer_interval[0] <= score.wer <= score.wer_interval[1]
    assert [utterance.id for utterance in score.utterances] == ["1", "2", "3"]


def test_an_empty_set_and_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0 utterances, wanted at least 1"):
        score_utterances([])
    with pytest.raises(ValueError, match="utterance id 'x': found twice"):
        score_utterances([("x", "a", "a"), ("x", "b", "b")])


def _random_set(seed: int, size: int) -> tuple[list[int], list[int]]:
    generator = random.Random(seed)
    lengths = [generator.randint(3, 40) for _ in range(size)]
    return [sum(generator.random() < 0.25 for _ in range(n)) for n in lengths], lengths


def test_the_interval_is_that_of_a_slow_loop() -> None:
    errors, lengths = _random_set(1, 80)
    generator = random.Random(2)
    rates = []
    for _ in range(6000):
        drawn = [generator.randrange(80) for _ in range(80)]
        rates.append(sum(errors[i] for i in drawn) / sum(lengths[i] for i in drawn))
    rates.sort()
    low, high = bootstrap_interval(errors, lengths)
    width = high - low
    assert low == pytest.approx(rates[150], abs=0.06 * width)
    assert high == pytest.approx(rates[-151], abs=0.06 * width)


def test_two_utterances_can_be_counted_out() -> None:
    # One draw in four is (clean, clean), one in four (bad, bad): both ends lie inside 95 %.
    assert bootstrap_interval([0, 5], [10, 10]) == (0.0, 0.5)
    # With 40 % confidence only the mixed draws are left.
    assert bootstrap_interval([0, 5], [10, 10], confidence=0.4) == (0.25, 0.25)


def test_the_interval_is_repeatable_and_does_not_depend_on_the_size_of_the_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors, lengths = _random_set(3, 50)
    whole = bootstrap_interval(errors, lengths, seed=7)
    assert bootstrap_interval(errors, lengths, seed=7) == whole
    monkeypatch.setattr("asr.score._DRAWS_AT_ONCE", 1234)
    assert bootstrap_interval(errors, lengths, seed=7) == pytest.approx(whole, rel=0.05)


def test_the_interval_shrinks_with_the_square_root_of_the_size() -> None:
    errors, lengths = _random_set(4, 100)
    low, high = bootstrap_interval(errors, lengths)
    low_9, high_9 = bootstrap_interval(errors * 9, lengths * 9)
    assert (high - low) / (high_9 - low_9) == pytest.approx(3.0, rel=0.1)


def test_intervals_without_any_reference_word() -> None:
    assert bootstrap_interval([0, 0], [0, 0]) == (0.0, 0.0)
    assert bootstrap_interval([1, 1], [0, 0]) == (math.inf, math.inf)
    low, high = bootstrap_interval([1, 1], [0, 10])
    assert low == pytest.approx(0.1)
    assert high == math.inf


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 errors, 1 reference_lengths, wanted as many"):
        bootstrap_interval([1, 2], [3])
    with pytest.raises(ValueError, match="wanted at least 1 utterance"):
        bootstrap_interval([], [])
    with pytest.raises(ValueError, match="found references of 4 and 5 words"):
        paired_bootstrap([ErrorCounts(hits=4)], [ErrorCounts(hits=5)])


def _counts(errors: list[int], lengths: list[int]) -> list[ErrorCounts]:
    return [
        ErrorCounts(substitutions=wrong, hits=length - wrong)
        for wrong, length in zip(errors, lengths, strict=True)
    ]


def test_a_paired_difference_is_that_of_a_slow_loop() -> None:
    old, lengths = _random_set(5, 60)
    generator = random.Random(6)
    new = [
        min(length, e + generator.choice([-1, 0, 0, 1, 1]))
        for e, length in zip(old, lengths, strict=True)
    ]
    new = [max(0, e) for e in new]
    draws = []
    for _ in range(6000):
        drawn = [generator.randrange(60) for _ in range(60)]
        words = sum(lengths[i] for i in drawn)
        draws.append(sum(new[i] for i in drawn) / words - sum(old[i] for i in drawn) / words)
    draws.sort()
    result = paired_bootstrap(_counts(new, lengths), _counts(old, lengths))
    width = draws[-151] - draws[150]
    assert result.difference == pytest.approx((sum(new) - sum(old)) / sum(lengths))
    assert result.interval == pytest.approx((draws[150], draws[-151]), abs=0.06 * width)
    slow_p = 2 * min(np.mean(np.array(draws) <= 0), np.mean(np.array(draws) >= 0))
    assert result.p == pytest.approx(slow_p, abs=0.03)


def test_pairing_finds_a_small_difference_that_the_intervals_hide() -> None:
    old, lengths = _random_set(8, 300)
    new = [min(length, errors + 1) for errors, length in zip(old, lengths, strict=True)]
    low_new, _ = bootstrap_interval(new, lengths)
    _, high_old = bootstrap_interval(old, lengths)
    worse = paired_bootstrap(_counts(new, lengths), _counts(old, lengths))
    assert worse.significantly_worse and not worse.significantly_better
    assert worse.p < 0.001
    better = paired_bootstrap(_counts(old, lengths), _counts(new, lengths))
    assert better.significantly_better and not better.significantly_worse
    assert better.difference == pytest.approx(-worse.difference)
    assert low_new - high_old < 0.05  # alone, the two are not clearly apart


def test_equal_systems_do_not_differ() -> None:
    errors, lengths = _random_set(9, 40)
    counts = _counts(errors, lengths)
    assert paired_bootstrap(counts, counts) == PairedDifference(0.0, (0.0, 0.0), 1.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # 200 sets from one known process; 95 % of the intervals should hold its rate of 0.25.
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(*_random_set(1000 + seed, 60), num_resamples=400)
        held += low <= 0.25 <= high
    assert 178 <= held <= 199
