"""Word and character error rates with the intervals that make them comparable.

Errors are counted by `jiwer`. The rate of a set is all its errors over all its reference words,
so it is a ratio of sums; its 95 % interval comes from drawing whole utterances with replacement
(Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
2004), because errors within an utterance are not independent. Two systems that heard the same
utterances are compared on the same draws, which finds differences far smaller than either
interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from jiwer import AlignmentChunk, CharacterOutput, WordOutput

Operation = Literal["hit", "substitution", "deletion", "insertion"]
Interval = tuple[float, float]

_NUM_RESAMPLES = 10_000
_CONFIDENCE = 0.95
_DRAWS_AT_ONCE = 4_000_000  # 32 MB of indices: large enough to be fast, small enough for a laptop


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors against a reference, in words or in characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Words (or characters) in the reference: those hit, replaced and left out."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors over reference length, as a fraction.

        An empty reference gives 0 when nothing was heard, and infinity otherwise.
        """
        return _rate(self.errors, self.reference_length)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        """Return the counts of both together."""
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )

    def to_json(self) -> dict[str, int]:
        """Return the four counts as plain data."""
        return {
            "substitutions": self.substitutions,
            "deletions": self.deletions,
            "insertions": self.insertions,
            "hits": self.hits,
        }


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance against its reference.

    Attributes:
        id: Name of the utterance, unique in its set.
        reference: What was said (normalised text).
        hypothesis: What was recognised.
        words: Word errors.
        chars: Character errors; spaces count as characters.
        alignment: One (operation, reference word, hypothesis word) after the other; the missing
            word of a deletion or insertion is the empty string.
    """

    id: str
    reference: str
    hypothesis: str
    words: ErrorCounts
    chars: ErrorCounts
    alignment: tuple[tuple[Operation, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the utterance as plain data, one line of a hypotheses file."""
        return {
            "id": self.id,
            "reference": self.reference,
            "hypothesis": self.hypothesis,
            "words": self.words.to_json(),
            "chars": self.chars.to_json(),
            "alignment": [list(step) for step in self.alignment],
        }


@dataclass(frozen=True, slots=True)
class Score:
    """A whole set: sums over its utterances, and 95 % intervals over draws of utterances.

    Attributes:
        utterances: In the order in which they were given.
        words: Word errors of all utterances.
        chars: Character errors of all utterances.
        wer_interval: Lowest and highest word error rate, as fractions.
        cer_interval: Lowest and highest character error rate, as fractions.
    """

    utterances: tuple[UtteranceScore, ...] = field(repr=False)
    words: ErrorCounts
    chars: ErrorCounts
    wer_interval: Interval
    cer_interval: Interval

    @property
    def wer(self) -> float:
        """Word error rate as a fraction (it exceeds 1 where much is inserted)."""
        return self.words.rate

    @property
    def cer(self) -> float:
        """Character error rate as a fraction."""
        return self.chars.rate


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How the word error rate of one system differs from another's on the same utterances.

    Attributes:
        difference: New rate minus old rate, as a fraction: negative is better.
        interval: 95 % interval of that difference.
        p: Two-sided bootstrap p-value: how often draws disagree with the sign of the difference.
    """

    difference: float
    interval: Interval
    p: float

    @property
    def significantly_worse(self) -> bool:
        """True when the whole interval lies above zero."""
        return self.interval[0] > 0.0

    @property
    def significantly_better(self) -> bool:
        """True when the whole interval lies below zero."""
        return self.interval[1] < 0.0


def score_utterance(utterance_id: str, reference: str, hypothesis: str) -> UtteranceScore:
    """Count and align the errors of one utterance; either text may be empty.

    Both texts are compared as they are, but for spaces: normalise them first.
    """
    import jiwer  # 0.1 s, and only scoring needs it

    reference, hypothesis = " ".join(reference.split()), " ".join(hypothesis.split())
    words = jiwer.process_words([reference], [hypothesis])
    chars = jiwer.process_characters([reference], [hypothesis])
    return UtteranceScore(
        id=utterance_id,
        reference=reference,
        hypothesis=hypothesis,
        words=_counts(words),
        chars=_counts(chars),
        alignment=tuple(_align(words.alignments[0], reference.split(), hypothesis.split())),
    )


def score_utterances(
    items: Iterable[tuple[str, str, str]],
    *,
    num_resamples: int = _NUM_RESAMPLES,
    seed: int = 0,
) -> Score:
    """Score a set of utterances.

    Args:
        items: (id, reference, hypothesis) of each utterance.
        num_resamples: Draws for the intervals.
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: There are no utterances, or two have the same id.
    """
    utterances = tuple(score_utterance(*item) for item in items)
    if not utterances:
        raise ValueError("nothing to score: found 0 utterances, wanted at least 1")
    _check_unique([utterance.id for utterance in utterances])
    words = sum((utterance.words for utterance in utterances), ErrorCounts())
    chars = sum((utterance.chars for utterance in utterances), ErrorCounts())
    intervals = [
        bootstrap_interval(
            [counts.errors for counts in column],
            [counts.reference_length for counts in column],
            num_resamples=num_resamples,
            seed=seed,
        )
        for column in ([u.words for u in utterances], [u.chars for u in utterances])
    ]
    return Score(utterances, words, chars, intervals[0], intervals[1])


def bootstrap_interval(
    errors: ArrayLike,
    reference_lengths: ArrayLike,
    *,
    num_resamples: int = _NUM_RESAMPLES,
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return the interval of an error rate when whole utterances are drawn with replacement.

    Args:
        errors: (N,) errors of each utterance.
        reference_lengths: (N,) words or characters in each reference.
        num_resamples: Draws of N utterances.
        confidence: Fraction of the draws' rates that lie inside.
        seed: Of the draws.

    Returns:
        Lower and upper end, as fractions. Infinite where more than a tail of the draws
        has errors but no reference words.

    Raises:
        ValueError: N is 0 or differs between the two.
    """
    columns = np.stack(_same_length(errors=errors, reference_lengths=reference_lengths), axis=1)
    sums = _resampled_sums(columns, num_resamples, seed)  # (R, 2)
    return _percentiles(_rates(sums[:, 0], sums[:, 1]), confidence)


def paired_bootstrap(
    new: Sequence[ErrorCounts],
    old: Sequence[ErrorCounts],
    *,
    num_resamples: int = _NUM_RESAMPLES,
    confidence: float = _CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Compare two systems on the same utterances, drawn together.

    Args:
        new: Counts of the system in question, one an utterance.
        old: Counts of the system that it is held against, in the same order.
        num_resamples: Draws of N utterances.
        confidence: Fraction of the draws' differences that lie inside the interval.
        seed: Of the draws.

    Raises:
        ValueError: There are no utterances, their numbers differ, or an utterance's two
            references have different lengths.
    """
    columns = np.stack(
        _same_length(
            new=[counts.errors for counts in new],
            old=[counts.errors for counts in old],
            reference_lengths=[counts.reference_length for counts in new],
        ),
        axis=1,
    )
    for index, (mine, other) in enumerate(zip(new, old, strict=True)):
        if mine.reference_length != other.reference_length:
            raise ValueError(
                f"utterance {index}: found references of {mine.reference_length} and "
                f"{other.reference_length} words, wanted the same reference on both sides"
            )
    # Differencing the errors, not the rates, keeps a draw without any reference word finite
    # where both systems did the same.
    sums = _resampled_sums(columns, num_resamples, seed)  # (R, 3)
    differences = _rates(sums[:, 0] - sums[:, 1], sums[:, 2])
    total = columns.sum(axis=0)
    # One draw more than was made, so that p is never an impossible zero.
    not_worse = (np.count_nonzero(differences <= 0) + 1) / (num_resamples + 1)
    not_better = (np.count_nonzero(differences >= 0) + 1) / (num_resamples + 1)
    return PairedDifference(
        difference=_rate(int(total[0] - total[1]), int(total[2])),
        interval=_percentiles(differences, confidence),
        p=min(1.0, 2.0 * min(not_worse, not_better)),
    )


def _counts(output: WordOutput | CharacterOutput) -> ErrorCounts:
    return ErrorCounts(output.substitutions, output.deletions, output.insertions, output.hits)


def _align(
    chunks: Sequence[AlignmentChunk], reference: Sequence[str], hypothesis: Sequence[str]
) -> Iterator[tuple[Operation, str, str]]:
    """Unroll jiwer's runs into one step a word."""
    for chunk in chunks:
        said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            yield from (("deletion", word, "") for word in said)
        elif chunk.type == "insert":
            yield from (("insertion", "", word) for word in heard)
        else:
            name: Operation = "hit" if chunk.type == "equal" else "substitution"
            yield from ((name, *pair) for pair in zip(said, heard, strict=True))


def _resampled_sums(columns: NDArray[np.int64], num_resamples: int, seed: int) -> NDArray[np.int64]:
    """Sum the columns (N, C) over `num_resamples` draws of N rows, giving (R, C)."""
    generator = np.random.default_rng(seed)
    num_rows = len(columns)
    at_once = max(1, _DRAWS_AT_ONCE // num_rows)
    parts = []
    for start in range(0, num_resamples, at_once):
        size = (min(at_once, num_resamples - start), num_rows)
        draws = generator.integers(num_rows, size=size, dtype=np.int32)
        parts.append(np.stack([column[draws].sum(axis=1) for column in columns.T], axis=1))
    return np.concatenate(parts)


def _same_length(**columns: ArrayLike) -> list[NDArray[np.int64]]:
    arrays = [np.asarray(column, dtype=np.int64) for column in columns.values()]
    sizes = ", ".join(f"{len(array)} {name}" for name, array in zip(columns, arrays, strict=True))
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"found {sizes}, wanted as many of each")
    if len(arrays[0]) == 0:
        raise ValueError(f"found {sizes}, wanted at least 1 utterance")
    return arrays


def _check_unique(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise ValueError(f"utterance id {name!r}: found twice, wanted every id once")
        seen.add(name)


def _rate(errors: int, length: int) -> float:
    if length:
        return errors / length
    return 0.0 if errors == 0 else float(np.copysign(np.inf, errors))


def _rates(errors: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    # The same rule as `_rate`, for arrays: 0 / 0 is no error at all.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, errors / lengths)


def _percentiles(values: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    # "nearest" never interpolates between a finite and an infinite rate, which would give NaN.
    low, high = np.quantile(values, [tail, 1.0 - tail], method="nearest")
    return float(low), float(high)
