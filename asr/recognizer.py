"""Recordings of any length to transcripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asr.batch import Progress, recognize
from asr.transcript import Segment, Transcript

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.segment import Waveform

MAX_SECONDS = 30.0  # of one piece


def transcribe_waveforms(
    bundle: ModelBundle,
    waveforms: Sequence[Waveform],
    search: SearchConfig | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    progress: Progress | None = None,
) -> list[Transcript]:
    """Recognise recordings of any length, long ones in pieces.

    Args:
        bundle: The model.
        waveforms: Each (N,) at 16 kHz in -1..1.
        search: How to search; the default is the model's own way.
        max_seconds: Longest piece.
        progress: Called after each batch of pieces.

    Returns:
        One transcript for each waveform; without segments where it is silent.
    """
    from asr.segment import is_silent, split_speech

    rate = bundle.config.features.sample_rate
    places: list[tuple[int, float, float]] = []
    pieces: list[Waveform] = []
    for number, waveform in enumerate(waveforms):
        if is_silent(waveform, rate):
            continue
        for start, end in split_speech(waveform, rate, max_seconds):
            places.append((number, start, end))
            pieces.append(waveform[round(start * rate) : round(end * rate)])
    texts = recognize(bundle, pieces, search, progress=progress)
    segments: list[list[Segment]] = [[] for _ in waveforms]
    for (number, start, end), text in zip(places, texts, strict=True):
        segments[number].append(Segment(start, end, text))
    return [
        Transcript(tuple(parts), len(waveform) / rate)
        for parts, waveform in zip(segments, waveforms, strict=True)
    ]


def transcribe_file(
    bundle: ModelBundle,
    path: str | os.PathLike[str],
    search: SearchConfig | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    progress: Progress | None = None,
) -> Transcript:
    """Recognise a sound file.

    Args:
        bundle: The model.
        path: Of the file: wav, flac, ogg, opus or mp3, any sample rate, any number of channels.
        search: How to search; the default is the model's own way.
        max_seconds: Longest piece that is heard at once.
        progress: Called after each batch of pieces.

    Raises:
        AudioError: The file cannot be read as sound, or nothing is to be heard in it.
    """
    from asr.audio import AudioError, load_audio
    from asr.segment import is_silent

    rate = bundle.config.features.sample_rate
    waveform = load_audio(path, rate)
    if is_silent(waveform, rate):
        seconds = len(waveform) / rate
        raise AudioError(f"{path}: silent: found no sound in {seconds:.2f} s, wanted speech")
    (transcript,) = transcribe_waveforms(
        bundle, [waveform], search, max_seconds=max_seconds, progress=progress
    )
    if not transcript.segments:
        raise AudioError(f"{path}: found no speech in {transcript.duration:.2f} s, wanted some")
    return transcript
