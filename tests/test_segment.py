"""Cutting long recordings: pieces are short enough, in order, and hold all speech."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr.segment import DETECTOR_FRAME, _run_detector, is_silent, speech_probabilities, split_speech

RATE = 16000
Array = NDArray[np.float32]


def buzz(seconds: float, seed: int = 0) -> Array:
    """Syllables of a synthetic vowel: pulses through three resonators, four times a second."""
    generator = np.random.default_rng(seed)
    size = int(seconds * RATE)
    time = np.arange(size) / RATE
    pitch = 110 + 25 * np.sin(2 * np.pi * 1.3 * time) + 10 * generator.random()
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    spectrum = np.fft.rfft(pulses + 1e-3 * generator.standard_normal(size))
    frequency = np.fft.rfftfreq(size, 1 / RATE)
    shape = sum(1 / (1 + ((frequency - f) / 60) ** 2) for f in (700, 1220, 2600))
    sound = np.fft.irfft(spectrum * shape, size) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time))
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def hush(seconds: float) -> Array:
    generator = np.random.default_rng(5)
    return (1e-5 * generator.standard_normal(int(seconds * RATE))).astype(np.float32)


def loudness(waveform: Array) -> Array:
    """A detector for tests: speech is where a frame is not quiet."""
    padded = np.pad(waveform, (0, -len(waveform) % DETECTOR_FRAME))
    frames = padded.reshape(-1, DETECTOR_FRAME)
    return (np.abs(frames).max(axis=1) > 0.01).astype(np.float32)


def test_short_recordings_are_one_piece_and_need_no_detector() -> None:
    def never(_: Array) -> Array:
        raise AssertionError("not wanted here")

    assert split_speech(buzz(29.5), detector=never) == [(0.0, 29.5)]
    assert split_speech(hush(30.0), detector=never) == [(0.0, 30.0)]
    assert split_speech(np.zeros(0, np.float32)) == []


def test_long_recordings_are_cut_in_pauses() -> None:
    waveform = np.concatenate([buzz(6), hush(0.6), buzz(5), hush(0.6), buzz(7), hush(0.6)])
    pieces = split_speech(waveform, RATE, 12.5, detector=loudness)
    assert len(pieces) == 2
    (first, cut), (again, last) = pieces
    assert first == 0.0
    assert 11.6 < cut <= again < 12.2  # inside the second pause
    assert last == pytest.approx(19.2, abs=0.4)


def test_long_silence_is_left_out() -> None:
    waveform = np.concatenate([hush(10), buzz(3), hush(15), buzz(3), hush(10)])
    pieces = split_speech(waveform, detector=loudness)
    assert len(pieces) == 2
    assert pieces[0] == pytest.approx((10, 13), abs=0.35)
    assert pieces[1] == pytest.approx((28, 31), abs=0.35)
    assert split_speech(hush(40), detector=loudness) == []


def test_speech_without_pauses_is_cut_where_it_is_quietest() -> None:
    waveform = buzz(70)
    for middle in (22.0, 48.0):
        around = slice(int((middle - 0.1) * RATE), int((middle + 0.1) * RATE))
        waveform[around] *= 0.02
    everywhere = lambda w: np.ones(-(-len(w) // DETECTOR_FRAME), np.float32)  # noqa: E731
    pieces = split_speech(waveform, detector=everywhere)
    assert [start for start, _ in pieces] == pytest.approx([0.0, 22.0, 48.0], abs=0.06)
    assert [end for _, end in pieces] == pytest.approx([22.0, 48.0, 70.0], abs=0.06)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.05, 9.0), st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.6])),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([1.0, 2.5, 5.0, 12.0]),
)
def test_pieces_hold_all_speech_and_are_never_too_long(
    turns: list[tuple[float, float]], max_seconds: float
) -> None:
    tone = np.float32(0.5)
    parts = [
        part
        for speech, pause in turns
        for part in (
            np.full(int(speech * RATE), tone, np.float32),
            np.zeros(int(pause * RATE), np.float32),
        )
    ]
    waveform = np.concatenate(parts)
    pieces = split_speech(waveform, RATE, max_seconds, detector=loudness)
    inside = np.zeros(len(waveform), bool)
    previous = 0.0
    for start, end in pieces:
        assert previous <= start < end <= len(waveform) / RATE
        assert end - start <= max_seconds + 1e-9
        inside[round(start * RATE) : round(end * RATE)] = True
        previous = end
    assert inside[waveform > 0].all()


def test_the_real_detector_finds_voiced_syllables() -> None:
    waveform = np.concatenate([hush(8)] + [np.concatenate([buzz(2, s), hush(8)]) for s in range(3)])
    pieces = split_speech(waveform)
    assert len(pieces) == 3
    for number, (start, end) in enumerate(pieces):
        assert 7.5 + 10 * number < start < 9.0 + 10 * number
        assert end < 11.5 + 10 * number


class FakeDetector:
    """Gives the mean of the last 40 frames: a memory that ends."""

    def __init__(self) -> None:
        self.past: list[torch.Tensor] = []

    def reset_states(self) -> None:
        self.past = []

    def __call__(self, frames: torch.Tensor, sample_rate: int) -> torch.Tensor:
        assert frames.shape[1] == DETECTOR_FRAME and sample_rate == RATE
        self.past = [*self.past[-39:], frames.mean(dim=1, keepdim=True)]
        return torch.stack(self.past).sum(dim=0) / 40


@pytest.mark.parametrize("num_samples", [100, 512, 16000, 333_333])
def test_strips_hear_what_a_single_pass_hears(
    num_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = np.random.default_rng(1).random(num_samples).astype(np.float32)
    frames = np.pad(waveform, (40 * 512, -num_samples % 512)).reshape(-1, 512).mean(axis=1)
    slow = np.array([frames[t - 39 : t + 1].mean() for t in range(40, len(frames))])
    for seconds in (3.0, 30.0):
        monkeypatch.setattr("asr.segment._STRIP_SECONDS", seconds)
        np.testing.assert_allclose(_run_detector(FakeDetector(), waveform), slow, atol=1e-6)


def test_the_detector_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        speech_probabilities(hush(0.5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_memory_does_not_grow_with_the_length() -> None:
    def peak(seconds: float) -> int:
        waveform = np.tile(np.concatenate([buzz(4), hush(0.5)]), int(seconds / 4.5))
        tracemalloc.start()
        split_speech(waveform, detector=loudness_in_blocks)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    def loudness_in_blocks(waveform: Array) -> Array:
        starts = range(0, len(waveform), DETECTOR_FRAME)
        return np.array([waveform[s : s + DETECTOR_FRAME].max() > 0.01 for s in starts], np.float32)

    ten_minutes = peak(600.0)  # the waveform itself is 38 MB
    assert ten_minutes < 8_000_000


@pytest.mark.parametrize(
    ("waveform", "silent"),
    [
        (np.zeros(16000, np.float32), True),
        (np.zeros(0, np.float32), True),
        (np.full(16000, 0.2, np.float32), True),  # a constant offset
        (hush(2.0), True),
        (buzz(1.0), False),
        (0.02 * buzz(1.0), False),  # speech far from the microphone
        (np.concatenate([hush(20.0), 0.1 * buzz(0.3), hush(20.0)]), False),
    ],
)
def test_silence(waveform: Array, silent: bool) -> None:
    assert is_silent(waveform) is silent


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"waveform: found shape \(2, 5\), wanted one axis"):
        split_speech(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"sample_rate: found 8000 Hz, wanted 16000"):
        split_speech(np.zeros(5, np.float32), 8000)
    with pytest.raises(ValueError, match=r"max_seconds: found nan, wanted at least 1"):
        split_speech(np.zeros(5, np.float32), max_seconds=float("nan"))
