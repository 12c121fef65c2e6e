"""What all texts weigh together, for `asr.crf`, on a CPU: only histories that matter are followed.

Of the thousands of histories of two labels a few hundred hold nearly all of the weight in a frame,
as in a decoder's beam. To leave the others out takes a small part of the time of the whole sum. It
is the lattice-free denominator of Povey et al., "Purely sequence-trained neural networks for ASR
based on lattice-free MMI", 2016.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[np.float32]

LEAST_SHARE = 1e-6  # of a frame's weight below which a history is given up


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def log_sum(emission: Array, trigram: Array, occupation: Array) -> float:
    """Return log Z of one utterance, and the probability of every label in every frame.

    A state is the last two labels (prev, cur), as in `asr.crf`, with one weight for frames that
    emit `cur` and one for those that emit the blank.

    Args:
        emission: (S, V) probabilities of the labels, label 0 the blank.
        trigram: (V, V, V) of `asr.crf.label_trigram`.
        occupation: (S, V) zeros, to be filled; (0, V) if it is not wanted.
    """
    frames, labels = emission.shape
    size = 256 * (frames + 1)
    states = np.empty(size, np.int32)
    said = np.empty(size, np.float32)
    quiet = np.empty(size, np.float32)
    first = np.zeros(frames + 2, np.int64)  # where the states of each frame begin
    states[0], said[0], quiet[0] = 0, 0.0, 1.0  # before the first frame: nothing said yet
    first[1] = 1
    arriving = np.zeros((labels, labels), np.float32)  # (cur, next)
    reached = np.zeros(labels, np.bool_)
    place = np.full(labels * labels, -1, np.int64)  # of a state among the new ones
    log_total = 0.0
    for frame in range(frames):
        here = emission[frame]
        begin, end = first[frame], first[frame + 1]
        if end + (end - begin) + labels * labels > size:
            size = 2 * size + labels * labels
            states, said, quiet = _longer(states, size), _longer(said, size), _longer(quiet, size)
        total = np.float32(0)
        for index in range(begin, end):
            prev, cur = divmod(states[index], labels)
            row, sums = trigram[prev, cur], arriving[cur]
            loud, both = said[index], said[index] + quiet[index]
            for label in range(labels):
                sums[label] += both * row[label]
            sums[cur] -= loud * row[cur]  # the same label twice needs a blank between
            reached[cur] = True
            total += loud * here[cur] + both * here[0]
        for cur in range(labels):
            if reached[cur]:
                sums = arriving[cur]
                sums[0] = 0.0  # the end of a text is no label
                for label in range(labels):
                    sums[label] *= here[label]
                    total += sums[label]
        least = LEAST_SHARE * total
        new = end
        for cur in range(labels):
            if reached[cur]:
                sums, base = arriving[cur], cur * labels
                for label in range(1, labels):
                    if sums[label] > least:
                        states[new], quiet[new] = base + label, 0.0
                        said[new] = sums[label] / total
                        place[base + label] = new
                        new += 1
                sums[:] = 0.0
                reached[cur] = False
        for index in range(begin, end):
            state = states[index]
            again = said[index] * here[state % labels]
            still = (said[index] + quiet[index]) * here[0]
            at = place[state]
            if at < 0 and again + still > least:
                at, new = new, new + 1
                states[at], said[at], quiet[at] = state, 0.0, 0.0
            if at >= 0:
                said[at] += again / total
                quiet[at] += still / total
        for index in range(end, new):
            place[states[index]] = -1
        log_total += np.log(total)
        first[frame + 2] = new
    at_end = np.float32(0)
    for index in range(first[frames], first[frames + 1]):
        prev, cur = divmod(states[index], labels)
        at_end += (said[index] + quiet[index]) * trigram[prev, cur, 0]
    if len(occupation):
        _fill_occupation(emission, trigram, first, states, said, quiet, occupation)
    log_z: float = log_total + np.log(at_end)
    return log_z


@njit(cache=True, nogil=True)
def _longer(array, size):  # type: ignore[no-untyped-def]  # of integers and of floats
    longer = np.empty(size, array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _fill_occupation(
    emission: Array,
    trigram: Array,
    first: npt.NDArray[np.int64],
    states: npt.NDArray[np.int32],
    said: Array,
    quiet: Array,
    occupation: Array,
) -> None:
    """Fill in the probability of every label in every frame, going back over the states."""
    frames, labels = emission.shape
    said_after = np.zeros(labels * labels, np.float32)  # what all that follows weighs, by state
    quiet_after = np.zeros(labels * labels, np.float32)
    said_before = np.empty(len(states), np.float32)
    quiet_before = np.empty(len(states), np.float32)
    onward = np.zeros((labels, labels), np.float32)  # (cur, next)
    for index in range(first[frames], first[frames + 1]):
        prev, cur = divmod(states[index], labels)
        said_after[states[index]] = quiet_after[states[index]] = trigram[prev, cur, 0]
    for frame in range(frames - 1, -1, -1):
        here, seen = emission[frame], occupation[frame]
        begin, middle, end = first[frame], first[frame + 1], first[frame + 2]
        total = np.float32(0)
        for index in range(middle, end):
            state = states[index]
            loud, still = said[index] * said_after[state], quiet[index] * quiet_after[state]
            seen[state % labels] += loud
            seen[0] += still
            total += loud + still
            prev, cur = divmod(state, labels)
            if cur > 0:
                onward[prev, cur] = here[cur] * said_after[state]
        for label in range(labels):
            seen[label] /= total
        total = np.float32(0)
        for index in range(begin, middle):
            state = states[index]
            prev, cur = divmod(state, labels)
            row, ahead = trigram[prev, cur], onward[cur]
            arrives = np.float32(0)
            for label in range(labels):
                arrives += row[label] * ahead[label]
            still = here[0] * quiet_after[state]
            again = here[cur] * said_after[state] - row[cur] * ahead[cur]
            said_before[index] = arrives + again + still
            quiet_before[index] = arrives + still
            total += said_before[index] + quiet_before[index]
        for index in range(middle, end):
            state = states[index]
            said_after[state] = quiet_after[state] = 0.0
            onward[state // labels, state % labels] = 0.0
        for index in range(begin, middle):
            said_after[states[index]] = said_before[index] / total
            quiet_after[states[index]] = quiet_before[index] / total
