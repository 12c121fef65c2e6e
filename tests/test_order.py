"""Order: every utterance once an epoch, also when the size of batches changes on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.order import DurationBatches, Leg, share

DURATIONS = st.lists(st.floats(0.3, 40), min_size=1, max_size=80)


def greedy(durations: list[float], order: list[int], seconds: float, size: int) -> list[list[int]]:
    """Fill batches one by one in the plainest way."""
    batches: list[list[int]] = []
    for index in order:
        if batches:
            grown = [*batches[-1], index]
            if len(grown) <= size and max(durations[i] for i in grown) * len(grown) <= seconds:
                batches[-1] = grown
                continue
        batches.append([index])
    return batches


@given(DURATIONS, st.floats(1, 100), st.integers(1, 20), st.integers(0, 3))
def test_every_utterance_once_in_batches_as_full_as_can_be(
    durations: list[float], seconds: float, size: int, epoch: int
) -> None:
    batches = DurationBatches(durations, seconds, size, seed=0, short_first=True).epoch(epoch)
    order = batches.indices.tolist()
    assert sorted(order) == list(range(len(durations)))
    assert sorted(batches) == sorted(greedy(durations, order, seconds, size))
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or max(durations[i] for i in batch) * len(batch) <= seconds


def test_little_padding_and_other_batches_in_other_epochs() -> None:
    durations = np.random.default_rng(0).uniform(1, 16, 2000)
    order = DurationBatches(durations, 60, 64, seed=1)
    batches = list(order.epoch(1))
    padded = sum(max(durations[i] for i in b) * len(b) for b in batches)
    assert padded < 1.1 * sum(durations)
    assert batches == list(DurationBatches(durations, 60, 64, seed=1).epoch(1))
    assert {tuple(sorted(b)) for b in batches} != {tuple(sorted(b)) for b in order.epoch(2)}
    assert batches != list(DurationBatches(durations, 60, 64, seed=2).epoch(1))


def test_first_epoch_goes_from_short_to_long() -> None:
    durations = np.random.default_rng(0).uniform(1, 16, 500)
    order = DurationBatches(durations, 60, 64, seed=1, short_first=True)
    legs = [Leg(120.0, 64, 5)]
    for batches in (order.epoch(0), order.epoch(0, legs)):
        longest = [max(durations[i] for i in b) for b in batches]
        assert np.all(np.diff(longest) > -1.6)  # sorted but for the blur


@given(
    DURATIONS, st.integers(0, 2),
    st.lists(st.tuples(st.floats(1, 100), st.integers(1, 20), st.floats(0, 1)), max_size=3),
)  # fmt: skip
def test_no_utterance_is_seen_twice_or_left_out_when_sizes_change(
    durations: list[float], epoch: int, stretches: list[tuple[float, int, float]]
) -> None:
    legs: list[Leg] = []
    seen: list[int] = []
    for seconds, size, part in stretches:
        batches = DurationBatches(durations, seconds, size, 0, short_first=True).epoch(epoch, legs)
        legs.append(Leg(seconds, size, round(part * len(batches))))
        seen += [index for batch in batches[: legs[-1].batches] for index in batch]
    rest = DurationBatches(durations, 30.0, 8, 0, short_first=True).epoch(epoch, legs)
    assert sorted([*seen, *(i for batch in rest for i in batch)]) == list(range(len(durations)))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_make_up_the_batch(world: int) -> None:
    batch = [7, 3, 9]
    shares = [share(batch, rank, world) for rank in range(world)]
    assert sorted(i for part in shares for i in part if i >= 0) == [3, 7, 9]
    assert all(len(part) for part in shares)
    stand_ins = [~i for part in shares for i in part if i < 0]
    assert len(stand_ins) == max(0, world - 3) and set(stand_ins) <= set(batch)
