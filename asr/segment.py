"""Where speech is in a recording, and the pieces in which it is heard.

The network learned from utterances of seconds, invents words in what is no speech, and its memory
grows with the length of what it hears. So recordings are heard in pieces, which are cut at pauses
found by a voice activity detector; where somebody speaks for longer without a pause, at the
quietest point. Recordings come as blocks and are never in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
# From (N,) samples, N a multiple of 512, to the probability of speech in each 512 of them; called
# with one block after the other, it remembers what it heard.
Detector = Callable[[Waveform], NDArray[np.float32]]

DETECTOR_FRAME = 512  # samples for each speech probability: 32 ms at 16 kHz
DETECTOR_RATE = 16000
_BLOCK_FRAMES = 512  # heard by the detector at once: 16 s

_SPEECH_THRESHOLD = 0.3  # below the detector's usual 0.5: a lost word costs more than kept noise
_PAUSE_THRESHOLD = 0.15  # between the two, it goes on being what it was
_SURE_THRESHOLD = 0.5  # reached by eight frames of nearly all words, by up to four of music
_SURE_FRAMES = 5
_MIN_PAUSE = int(0.25 * DETECTOR_RATE)
_PAD = int(0.25 * DETECTOR_RATE)  # kept around speech: soft first and last consonants score low
_LONG_PAUSE = 2 * DETECTOR_RATE  # left out: silence is where recognisers invent words
_SHORTEST_CUT = 0.5  # a piece without pauses is cut in its second half

_SILENT_RMS = 1e-3  # -60 dB of full scale, quieter than the noise of most microphones
_SILENT_WINDOW_SECONDS = 0.1


@dataclass(frozen=True)
class Piece:
    """One piece of a recording: from where to where, in seconds, and its waveform (N,)."""

    start: float
    end: float
    waveform: Waveform


def is_silent(waveform: Waveform, sample_rate: int = DETECTOR_RATE) -> bool:
    """Tell whether no tenth of a second is louder than -60 dB of full scale.

    A constant offset is not sound; one loud moment in a long silence is.

    Args:
        waveform: (N,) in -1..1.
        sample_rate: Hz.
    """
    window = max(1, round(_SILENT_WINDOW_SECONDS * sample_rate))
    for start in range(0, len(waveform), window):
        # Not the whole file at once: its squares would take as much memory again.
        if float(np.std(waveform[start : start + window])) > _SILENT_RMS:
            return False
    return True


def split_speech(
    blocks: Iterable[Waveform], max_seconds: float = 30.0, *, detector: Detector | None = None
) -> Iterator[Piece]:
    """Yield the pieces in which a recording is to be heard, as soon as they are known.

    They do not overlap, hold all speech and are never longer than `max_seconds`; silence of more
    than two seconds lies outside, so that a recording without any speech has no pieces. They do
    not depend on how the recording comes in blocks.

    Args:
        blocks: (n,) each, at 16 kHz in -1..1.
        max_seconds: Of one piece; at least 1.
        detector: The default is Silero's.

    Raises:
        ValueError: A block has not one axis, or a number is out of range.
    """
    if not max_seconds >= 1.0:
        raise ValueError(f"max_seconds: found {max_seconds}, wanted at least 1")
    splitter = _Splitter(int(max_seconds * DETECTOR_RATE), detector or silero_detector())
    for block in _blocks_of(blocks, _BLOCK_FRAMES * DETECTOR_FRAME):
        yield from splitter.hear(block)
    yield from splitter.finish()


def silero_detector() -> Detector:
    """Return a detector for one recording, from its first sample on."""
    import torch

    from asr.vad import load_detector

    model = load_detector()
    state = model.initial_state()

    def detect(waveform: Waveform) -> NDArray[np.float32]:
        nonlocal state
        probabilities, state = model(torch.from_numpy(waveform), state)
        result: NDArray[np.float32] = probabilities.numpy()
        return result

    return detect


def _blocks_of(blocks: Iterable[Waveform], size: int) -> Iterator[Waveform]:
    """Yield the same samples in blocks of one size; the last one may be shorter."""
    kept: list[Waveform] = []
    num_kept = 0
    for block in blocks:
        if block.ndim != 1:
            raise ValueError(f"waveform: found shape {block.shape}, wanted one axis (N,)")
        kept.append(block)
        num_kept += len(block)
        if num_kept >= size:
            joined = np.concatenate(kept)
            whole = num_kept - num_kept % size
            for start in range(0, whole, size):
                yield joined[start : start + size]
            kept, num_kept = [joined[whole:].copy()], num_kept - whole
    if num_kept:
        yield np.concatenate(kept)


class _Splitter:
    """Follows the detector frame by frame: speech, pause, speech. All places are in samples.

    Stretches of speech become regions with padding, regions become pieces when they are too
    long, and neighbouring pieces are joined while they stay short enough.
    """

    def __init__(self, max_samples: int, detector: Detector) -> None:
        self._max_samples = max_samples
        self._detector = detector
        self._waveform: Waveform = np.zeros(0, np.float32)  # what may still be needed,
        self._offset = 0  # from this sample of the recording on
        self._heard = 0  # by the detector
        self._start: int | None = None  # of the region that is open, with padding
        self._quiet: int | None = None  # where it may have ended
        self._sure = 0  # frames of it that are speech for sure
        self._closed: tuple[int, int] | None = None  # a region without the padding at its end
        self._held: tuple[int, int] | None = None  # a piece that may grow

    def hear(self, block: Waveform) -> list[Piece]:
        """Take the next block, of whole frames unless it is the last; return finished pieces."""
        self._waveform = np.concatenate([self._waveform, block])
        frames = np.pad(block, (0, -len(block) % DETECTOR_FRAME))
        pieces: list[Piece] = []
        for probability in self._detector(frames).tolist():
            pieces += self._step(probability)
            self._heard += DETECTOR_FRAME
        self._forget()
        return pieces

    def finish(self) -> list[Piece]:
        """Return what is left at the end of the recording."""
        end = self._offset + len(self._waveform)
        pieces: list[Piece] = []
        if self._start is not None:
            pieces += self._close(end if self._quiet is None else self._quiet, end)
        if self._closed is not None:
            pieces += self._add(self._closed[0], min(self._closed[1] + _PAD, end))
        return pieces + self._release()

    def _step(self, probability: float) -> list[Piece]:
        """Follow one frame, the one that starts at `_heard`."""
        now = self._heard
        pieces: list[Piece] = []
        if self._start is not None and self._quiet is None:
            if now - self._start >= self._max_samples:
                pieces += self._cut()
        if probability >= _SPEECH_THRESHOLD:
            self._quiet = None
            self._sure += probability >= _SURE_THRESHOLD
            if self._start is None:
                pieces += self._open(now)
        elif self._start is not None and probability < _PAUSE_THRESHOLD:
            self._quiet = now if self._quiet is None else self._quiet
            if now - self._quiet >= _MIN_PAUSE:
                pieces += self._close(self._quiet, now)
        elif self._start is None and self._closed is not None:
            if now - self._closed[1] >= 2 * _PAD:
                start, end = self._closed
                self._closed = None
                pieces += self._add(start, end + _PAD)
        if self._start is None and self._closed is None and self._held is not None:
            if now - self._held[1] > _LONG_PAUSE + _PAD:
                pieces += self._release()
        return pieces

    def _open(self, now: int) -> list[Piece]:
        """Begin a region; the padding of two neighbours meets in the middle of a short pause."""
        start, pieces = max(now - _PAD, 0), []
        if self._closed is not None:
            first, end = self._closed
            middle = min(end + _PAD, (end + now) // 2)
            start = max(start, middle)
            self._closed = None
            pieces = self._add(first, middle)
        self._start = start
        return pieces

    def _close(self, end: int, limit: int) -> list[Piece]:
        """End a region, or drop it if it was no speech; its padding ends before `limit`."""
        assert self._start is not None
        start, is_sure = self._start, self._sure >= _SURE_FRAMES
        self._start, self._quiet, self._sure = None, None, 0
        if not is_sure:
            return []
        pieces: list[Piece] = []
        # With its padding it may be just too long.
        while min(end + _PAD, limit) - start > self._max_samples:
            cut = self._quietest(start)
            pieces += self._add(start, cut)
            start = cut
        self._closed = (start, max(start, end))
        return pieces

    def _cut(self) -> list[Piece]:
        """End a piece of the open region, which has become too long."""
        assert self._start is not None
        start, self._start = self._start, self._quietest(self._start)
        return self._add(start, self._start) if self._sure >= _SURE_FRAMES else []

    def _quietest(self, start: int) -> int:
        """Return the middle of the quietest 100 ms in the second half of a piece, to 10 ms."""
        first = start + int(_SHORTEST_CUT * self._max_samples)
        hop, hops = DETECTOR_RATE // 100, 10
        size = (start + self._max_samples - first) // hop * hop
        inside = self._waveform[first - self._offset :][:size]
        blocks = inside.reshape(-1, hop)  # (T, 160)
        energies = np.einsum("th,th->t", blocks, blocks, dtype=np.float64)
        quietest = int(np.argmin(np.convolve(energies, np.ones(hops), mode="valid")))
        return first + (quietest + hops // 2) * hop

    def _add(self, start: int, end: int) -> list[Piece]:
        """Join a piece to the one before, or else let that one go."""
        if self._held is not None:
            first, previous = self._held
            if end - first <= self._max_samples and start - previous <= _LONG_PAUSE:
                self._held = (first, end)
                return []
        pieces = self._release()
        self._held = (start, end)
        return pieces

    def _release(self) -> list[Piece]:
        if self._held is None:
            return []
        start, end = self._held
        self._held = None
        inside = self._waveform[start - self._offset : end - self._offset]
        # A copy, so that the rest of the block can go.
        return [Piece(start / DETECTOR_RATE, end / DETECTOR_RATE, inside.copy())]

    def _forget(self) -> None:
        """Drop what no piece can begin with any more."""
        starts = [self._heard - _PAD]
        starts += [start for start in (self._start,) if start is not None]
        starts += [place[0] for place in (self._closed, self._held) if place is not None]
        size = min(starts) - self._offset
        if size > 0:
            self._waveform = self._waveform[size:].copy()
            self._offset += size
