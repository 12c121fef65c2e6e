"""Where speech is in a recording, and where a long one can be cut.

The network learned from utterances of seconds, and its memory grows with the length of what it
hears, so recordings longer than `max_seconds` are heard in pieces. They are cut at pauses found
by Silero's voice activity detector, whose weights come with its package; where somebody speaks
for longer without a pause, at the quietest point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]
Detector = Callable[[Waveform], NDArray[np.float32]]

DETECTOR_FRAME = 512  # samples for each speech probability: 32 ms at 16 kHz
_DETECTOR_RATE = 16000

_SPEECH_THRESHOLD = 0.3  # below the detector's usual 0.5: a lost word costs more than kept noise
_MIN_PAUSE_SECONDS = 0.25
_PAD_SECONDS = 0.25  # kept around speech: soft first and last consonants score low
_LONG_PAUSE_SECONDS = 2.0  # left out: silence is where recognisers invent words
_SHORTEST_CUT = 0.5  # a piece without pauses is cut in its second half

_SILENT_RMS = 1e-3  # -60 dB of full scale, quieter than the noise of most microphones
_SILENT_WINDOW_SECONDS = 0.1

_STRIP_SECONDS = 30.0  # long recordings are heard as strips side by side,
_MAX_STRIPS = 32  # which is several times faster than one after the other;
_WARM_UP_FRAMES = 128  # each starts 4 s early, because the detector has a memory


def is_silent(waveform: Waveform, sample_rate: int = _DETECTOR_RATE) -> bool:
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
    waveform: Waveform,
    sample_rate: int = _DETECTOR_RATE,
    max_seconds: float = 30.0,
    *,
    detector: Detector | None = None,
) -> list[tuple[float, float]]:
    """Return the pieces in which a recording is to be heard, as (start, end) in seconds.

    A recording that is short enough is one piece. A longer one becomes pieces that do not
    overlap, hold all speech and are never longer than `max_seconds`; silence of more than two
    seconds lies outside, so that a recording without any speech has no pieces.

    Args:
        waveform: (N,) in -1..1.
        sample_rate: Hz; 16000.
        max_seconds: Of one piece; at least 1.
        detector: From (N,) samples to the probability of speech in each 512 of them; the
            default is Silero's.

    Raises:
        ValueError: The waveform has not one axis, or a number is out of range.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform: found shape {waveform.shape}, wanted one axis (N,)")
    if sample_rate != _DETECTOR_RATE:
        raise ValueError(f"sample_rate: found {sample_rate} Hz, wanted {_DETECTOR_RATE}")
    if not max_seconds >= 1.0:
        raise ValueError(f"max_seconds: found {max_seconds}, wanted at least 1")
    if len(waveform) == 0:
        return []
    max_samples = int(max_seconds * sample_rate)
    if len(waveform) <= max_samples:
        return [(0.0, len(waveform) / sample_rate)]
    probabilities = (detector or speech_probabilities)(waveform)
    short = [
        piece
        for region in _speech_regions(probabilities, len(waveform))
        for piece in _cut_region(waveform, region, max_samples)
    ]
    joined = _join(short, max_samples, int(_LONG_PAUSE_SECONDS * sample_rate))
    return [(start / sample_rate, end / sample_rate) for start, end in joined]


def speech_probabilities(waveform: Waveform) -> NDArray[np.float32]:
    """Return how likely each 32 ms of a 16 kHz waveform (N,) hold speech, as (ceil(N / 512),).

    Memory beside the waveform is a few megabytes whatever N is.
    """
    import torch

    num_threads = torch.get_num_threads()
    # Importing silero_vad sets one thread for the whole process. So small a network is fastest
    # that way, but what comes after it is not.
    import silero_vad

    torch.set_num_threads(1)
    try:
        return _run_detector(silero_vad.load_silero_vad(), waveform)
    finally:
        torch.set_num_threads(num_threads)


def _run_detector(model: Any, waveform: Waveform) -> NDArray[np.float32]:
    import torch

    num_frames = -(-len(waveform) // DETECTOR_FRAME)
    seconds = len(waveform) / _DETECTOR_RATE
    num_strips = int(np.clip(seconds / _STRIP_SECONDS, 1, _MAX_STRIPS))
    frames_each = -(-num_frames // num_strips)
    first_frames = np.arange(num_strips) * frames_each
    result = np.zeros((num_strips, frames_each), dtype=np.float32)
    with torch.inference_mode():
        model.reset_states()
        for step in range(-_WARM_UP_FRAMES, frames_each):
            frames = np.stack([_frame(waveform, int(first) + step) for first in first_frames])
            probabilities = model(torch.from_numpy(frames), _DETECTOR_RATE)  # (strips, 1)
            if step >= 0:
                result[:, step] = probabilities[:, 0].numpy()
    return result.reshape(-1)[:num_frames]


def _frame(waveform: Waveform, index: int) -> Waveform:
    """Return one frame of the detector, with zeros outside the recording."""
    start = index * DETECTOR_FRAME
    inside = waveform[max(start, 0) : max(start + DETECTOR_FRAME, 0)]
    return np.pad(inside, (0, DETECTOR_FRAME - len(inside)))


def _speech_regions(probabilities: NDArray[np.float32], num_samples: int) -> list[tuple[int, int]]:
    """Return the stretches of speech between pauses, padded, in samples."""
    from silero_vad import get_speech_timestamps_from_probs

    stamps = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        sampling_rate=_DETECTOR_RATE,
        threshold=_SPEECH_THRESHOLD,
        min_speech_duration_ms=0,  # a lone "yes" is speech
        min_silence_duration_ms=round(1000 * _MIN_PAUSE_SECONDS),
        speech_pad_ms=round(1000 * _PAD_SECONDS),
        audio_length_samples=num_samples,
    )
    return [(stamp["start"], stamp["end"]) for stamp in stamps]


def _cut_region(
    waveform: Waveform, region: tuple[int, int], max_samples: int
) -> list[tuple[int, int]]:
    """Cut one stretch of speech without pauses into pieces that are short enough."""
    start, end = region
    pieces = []
    while end - start > max_samples:
        cut = _quietest(waveform, start + int(_SHORTEST_CUT * max_samples), start + max_samples)
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, end)]


def _quietest(waveform: Waveform, start: int, end: int) -> int:
    """Return the middle of the quietest 100 ms between two samples, to 10 ms."""
    hop, hops = _DETECTOR_RATE // 100, 10
    blocks = waveform[start : start + (end - start) // hop * hop].reshape(-1, hop)  # (T, 160)
    energies = np.einsum("th,th->t", blocks, blocks, dtype=np.float64)
    quietest = int(np.argmin(np.convolve(energies, np.ones(hops), mode="valid")))
    return start + (quietest + hops // 2) * hop


def _join(
    pieces: list[tuple[int, int]], max_samples: int, long_pause: int
) -> list[tuple[int, int]]:
    """Join neighbours while they stay short enough and the pause between them is short."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined:
            first, previous = joined[-1]
            if end - first <= max_samples and start - previous <= long_pause:
                joined[-1] = (first, end)
                continue
        joined.append((start, end))
    return joined
