"""Cutting long recordings: pieces are short enough, in order, and hold all speech."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr.segment import DETECTOR_FRAME, Detector, is_silent, silero_detector, split_speech

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


def pieces_of(
    waveform: Array, max_seconds: float = 30.0, detector: Detector | None = loudness
) -> list[tuple[float, float]]:
    """Split a waveform, and hold the pieces against it."""
    result = []
    for piece in split_speech([waveform], max_seconds, detector=detector):
        start = round(piece.start * RATE)
        np.testing.assert_array_equal(piece.waveform, waveform[start:][: len(piece.waveform)])
        result.append((piece.start, piece.end))
    return result


def test_a_short_recording_is_one_piece_without_the_silence_around_it() -> None:
    assert pieces_of(buzz(29.5)) == [(0.0, 29.5)]
    waveform = np.concatenate([hush(4.0), buzz(3.0), hush(0.4), buzz(2.0), hush(5.0)])
    ((start, end),) = pieces_of(waveform)
    assert 3.7 < start < 3.8 and 9.6 < end < 9.7
    assert pieces_of(np.zeros(0, np.float32)) == []


def test_long_recordings_are_cut_in_pauses() -> None:
    waveform = np.concatenate([buzz(6), hush(0.6), buzz(5), hush(0.6), buzz(7), hush(0.6)])
    pieces = pieces_of(waveform, 12.5)
    assert len(pieces) == 2
    (first, cut), (again, last) = pieces
    assert first == 0.0
    assert 11.6 < cut <= again < 12.2  # inside the second pause
    assert last == pytest.approx(19.2, abs=0.4)


def test_long_silence_is_left_out() -> None:
    waveform = np.concatenate([hush(10), buzz(3), hush(15), buzz(3), hush(10)])
    pieces = pieces_of(waveform)
    assert len(pieces) == 2
    assert pieces[0] == pytest.approx((10, 13), abs=0.35)
    assert pieces[1] == pytest.approx((28, 31), abs=0.35)
    assert pieces_of(hush(40)) == []


def test_speech_without_pauses_is_cut_where_it_is_quietest() -> None:
    waveform = buzz(70)
    for middle in (22.0, 48.0):
        around = slice(int((middle - 0.1) * RATE), int((middle + 0.1) * RATE))
        waveform[around] *= 0.02
    everywhere = lambda w: np.ones(-(-len(w) // DETECTOR_FRAME), np.float32)  # noqa: E731
    pieces = pieces_of(waveform, detector=everywhere)
    assert [start for start, _ in pieces] == pytest.approx([0.0, 22.0, 48.0], abs=0.06)
    assert [end for _, end in pieces] == pytest.approx([22.0, 48.0, 70.0], abs=0.06)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.15, 9.0), st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.6])),
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
    inside = np.zeros(len(waveform), bool)
    previous = 0.0
    for start, end in pieces_of(waveform, max_seconds):
        assert previous <= start < end <= len(waveform) / RATE
        assert end - start <= max_seconds + 1e-9
        inside[round(start * RATE) : round(end * RATE)] = True
        previous = end
    assert inside[waveform > 0].all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=8),
)
def test_pieces_do_not_depend_on_blocks_and_are_those_of_the_package(
    levels: list[float], sizes: list[int]
) -> None:
    """Without padding, joining and cutting, regions are those of Silero's own state machine."""
    from silero_vad import get_speech_timestamps_from_probs

    # A pause at the end: a region that is still open there would lack its padding with us.
    waveform = np.repeat(np.array([*levels, 0, 0, 0], np.float32), 3 * DETECTOR_FRAME)

    def detector(block: Array) -> Array:
        return block[::DETECTOR_FRAME]

    def blocks() -> Iterator[Array]:
        place, turn = 0, 0
        while place < len(waveform):
            size = sizes[turn % len(sizes)]
            yield waveform[place : place + size]
            place, turn = place + size, turn + 1

    whole = pieces_of(waveform, detector=detector)
    assert whole == [(p.start, p.end) for p in split_speech(blocks(), detector=detector)]
    stamps = get_speech_timestamps_from_probs(
        detector(waveform).tolist(), sampling_rate=RATE, threshold=0.3,
        min_speech_duration_ms=0, min_silence_duration_ms=250, speech_pad_ms=250,
        audio_length_samples=len(waveform),
    )  # fmt: skip
    sure = [s for s in stamps if (waveform[s["start"] : s["end"]] >= 0.5).sum() >= 5 * 512]
    inside = np.zeros(len(waveform), bool)
    for start, end in whole:
        inside[round(start * RATE) : round(end * RATE)] = True
    for stamp in sure:  # all that they find, but for the padding next to what is not sure
        assert inside[stamp["start"] + RATE // 4 : max(stamp["end"] - RATE // 4, 0)].all()
    if len(stamps) == len(sure) == 1:
        assert [(s["start"] / RATE, s["end"] / RATE) for s in stamps] == whole


def test_a_few_frames_that_sound_like_speech_are_none() -> None:
    def detector(block: Array) -> Array:
        return block[::DETECTOR_FRAME]

    for frames, pieces in ((4, 0), (5, 1)):
        levels = np.array([0.0] * 40 + [0.4] * 6 + [0.9] * frames + [0.0] * 40, np.float32)
        assert len(pieces_of(np.repeat(levels, DETECTOR_FRAME), detector=detector)) == pieces


def test_the_real_detector_finds_voiced_syllables() -> None:
    waveform = np.concatenate([hush(8)] + [np.concatenate([buzz(2, s), hush(8)]) for s in range(3)])
    pieces = pieces_of(waveform, detector=None)
    assert len(pieces) == 3
    for number, (start, end) in enumerate(pieces):
        assert 7.5 + 10 * number < start < 9.0 + 10 * number
        assert end < 11.5 + 10 * number


def noise(power: float) -> Array:
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.standard_normal(20 * RATE))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** power
    sound = np.fft.irfft(spectrum)
    return (0.2 * sound / np.abs(sound).max()).astype(np.float32)


def music() -> Array:
    """Plucked chords, two a second."""
    generator = np.random.default_rng(0)
    time = np.arange(RATE // 2) / RATE
    chords = []
    for _ in range(40):
        pitches = 440 * 2 ** ((generator.choice(np.arange(48, 84), 3) - 69) / 12)
        tones = sum(np.sin(2 * np.pi * f * h * time) / h for f in pitches for h in range(1, 8))
        chords.append(np.exp(-3 * time) * tones)
    sound = np.concatenate(chords)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.mark.parametrize(
    "waveform",
    [
        noise(0), noise(0.5), noise(1), music(), hush(20),
        (0.2 * np.sin(2 * np.pi * 50 * np.arange(20 * RATE) / RATE)).astype(np.float32),
    ],
    ids=["white", "pink", "brown", "music", "hush", "hum"],
)  # fmt: skip
def test_noise_and_music_are_no_speech(waveform: Array) -> None:
    assert pieces_of(waveform, detector=None) == []


def test_memory_does_not_grow_with_the_length() -> None:
    turn = np.concatenate([buzz(4), hush(0.5)])

    def peak(seconds: float) -> int:
        tracemalloc.start()
        blocks = (turn for _ in range(int(seconds / 4.5)))
        assert sum(1 for _ in split_speech(blocks, detector=loudness)) > seconds / 35
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(120.0)
    short, long = peak(120.0), peak(1200.0)
    assert long < 1.1 * short < 20_000_000


def test_each_recording_has_a_detector_of_its_own() -> None:
    waveform = np.concatenate([hush(0.512), buzz(1.024)])
    first = silero_detector()(waveform)
    np.testing.assert_array_equal(silero_detector()(waveform), first)


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
        list(split_speech([np.zeros((2, 5), np.float32)]))
    with pytest.raises(ValueError, match=r"max_seconds: found nan, wanted at least 1"):
        list(split_speech([], max_seconds=float("nan")))
