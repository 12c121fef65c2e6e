"""Recordings of any length to transcripts: the library behind `asr.transcribe`.

    >>> import asr
    >>> recognizer = asr.load_model()
    >>> transcript = recognizer.transcribe("data/demo/sense_and_sensibility.flac")
    >>> transcript.text  # doctest: +ELLIPSIS
    'and mister john ...'
    >>> transcript.duration
    7.1

Waveforms are heard as well, and several recordings at once, which is faster:

    >>> import numpy as np
    >>> recognizer.transcribe(np.zeros(8000), sample_rate=8000)
    Transcript(segments=(), duration=1.0)
    >>> import glob
    >>> transcripts = recognizer.transcribe(glob.glob("data/demo/*.flac"))
    >>> [word.text for word in transcripts[0].segments[0].words[:2]]
    ['and', 'mister']

Blocks of a recording become pieces of speech, pieces are decoded in batches, and segments appear
as their batch is done: memory does not grow with the length of a recording, nor with their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, overload

from asr.memory import return_freed_memory
from asr.pieces import BATCH_SECONDS, recognize
from asr.transcript import Segment, Transcript

if TYPE_CHECKING:
    from asr.audio import AudioError, AudioStream
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.raw import RawFormat
    from asr.segment import Detector, Piece, Waveform

MAX_SECONDS = 30.0  # of one piece
# Pieces of speech hold no pause of over two seconds, so that they have a word in every few; where
# the network finds fewer than this, noise only sounded like speech, and its word is invented.
_MIN_CHARS_PER_SECOND = 0.2


@dataclass(frozen=True)
class Recording:
    """What is to be heard.

    Attributes:
        sound: Path of a file, a binary file, or a waveform (N,) of floats in -1..1 or int16.
        channel: One of a file's channels, from 1 on; None takes the mean of all.
        raw: The format of a file without a header.
        sample_rate: Of a waveform, in Hz.
    """

    sound: Any
    channel: int | None = None
    raw: RawFormat | None = None
    sample_rate: int = 16000

    @contextmanager
    def open(self, sample_rate: int) -> Iterator[AudioStream]:
        """Open it, to be read in blocks at a rate in Hz.

        Raises:
            AudioError: It cannot be read.
            ValueError: It is a waveform of another shape or type.
        """
        from asr.audio import open_audio, open_waveform

        if hasattr(self.sound, "read") or isinstance(self.sound, str | os.PathLike):
            with open_audio(self.sound, sample_rate, channel=self.channel, raw=self.raw) as stream:
                yield stream
        else:
            yield open_waveform(self.sound, self.sample_rate, sample_rate)


@dataclass(frozen=True)
class Update:
    """What has become known about one of several recordings.

    Attributes:
        index: Which.
        segments: New ones, in the order in which they were said.
        heard: Seconds that have been read.
        total: Seconds in all, where the recording tells.
        result: Once it is finished: its transcript, or why there is none.
        silent: No sound was heard, let alone speech.
        waveforms: The sound (N,) of each new segment at the model's rate, if asked for.
    """

    index: int
    segments: tuple[Segment, ...]
    heard: float
    total: float | None
    result: Transcript | AudioError | None
    silent: bool
    waveforms: tuple[Waveform, ...] = ()


@dataclass
class _Job:
    """One recording on its way."""

    index: int
    pieces: list[Piece] = field(default_factory=list)  # that wait for a batch
    segments: list[Segment] = field(default_factory=list)
    heard: float = 0.0
    total: float | None = None
    silent: bool = True
    error: AudioError | None = None
    finished: bool = False

    def listen(self, blocks: Iterator[Waveform], sample_rate: int) -> Iterator[Waveform]:
        """Pass blocks on and note what goes by."""
        from asr.segment import is_silent

        for block in blocks:
            self.heard += len(block) / sample_rate
            self.silent = self.silent and is_silent(block, sample_rate)
            yield block

    def update(self, segments: Sequence[Segment], waveforms: Sequence[Waveform]) -> Update:
        """Take new segments, and the sound of each or none."""
        self.segments += segments
        result: Transcript | AudioError | None = self.error
        if self.finished and result is None:
            result = Transcript(tuple(self.segments), self.heard)
        sounds = tuple(waveforms)
        return Update(
            self.index, tuple(segments), self.heard, self.total, result, self.silent, sounds
        )


@dataclass(frozen=True)
class Recognizer:
    """A model that transcribes; safe to use from several threads at once.

    Attributes:
        bundle: The model.
        search: How to search; None is the model's own way.
        detect_speech: Hear only what a voice activity detector takes for speech.
        words: Give segments their words, with times and confidences.
        batch_seconds: Audio that is decoded at once: more needs more memory.
        max_seconds: Longest piece that is heard as a whole.
        waveforms: Give updates the sound of their segments, for those who look at it too.
    """

    bundle: ModelBundle
    search: SearchConfig | None = None
    detect_speech: bool = True
    words: bool = True
    batch_seconds: float = BATCH_SECONDS
    max_seconds: float = MAX_SECONDS
    waveforms: bool = False

    @overload
    def transcribe(  # type: ignore[overload-overlap]  # a str is one recording
        self,
        sound: str | os.PathLike[str] | IO[bytes] | Waveform,
        *,
        channel: int | None = None,
        sample_rate: int = 16000,
        raw: RawFormat | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        sound: Iterable[str | os.PathLike[str] | IO[bytes] | Waveform],
        *,
        channel: int | None = None,
        sample_rate: int = 16000,
        raw: RawFormat | None = None,
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        sound: Any,
        *,
        channel: int | None = None,
        sample_rate: int = 16000,
        raw: RawFormat | None = None,
    ) -> Transcript | list[Transcript]:
        """Recognise a recording, or several.

        Args:
            sound: Path of a file (wav, flac, ogg, opus, mp3; others with the extra `media`), a
                binary file, or a waveform (N,) of floats in -1..1 or of int16; or several of
                these.
            channel: One of a file's channels, from 1 on; None takes the mean of all.
            sample_rate: Of waveforms, in Hz.
            raw: The format of files without a header.

        Returns:
            The transcript, or one for each; without segments where there is no speech.

        Raises:
            AudioError: A file cannot be read.
            ValueError: A waveform has another shape or type.
        """
        one = _is_one(sound)
        recordings = (
            Recording(item, channel, raw, sample_rate) for item in ([sound] if one else sound)
        )
        transcripts: list[Transcript] = []
        for update in self.updates(recordings):
            if isinstance(update.result, Transcript):
                transcripts.append(update.result)
            elif update.result is not None:
                raise update.result
        return transcripts[0] if one else transcripts

    def updates(self, recordings: Iterable[Recording]) -> Iterator[Update]:
        """Recognise recordings one after the other, and tell what is new after each batch.

        Every recording has a last update with its `result`; these come in the order of the
        recordings. A recording that cannot be read does not stop the others.

        Raises:
            ValueError: The model hears another sample rate than the voice activity detector.
        """
        from asr.audio import AudioError
        from asr.segment import DETECTOR_RATE, split_speech

        rate = self.bundle.config.features.sample_rate
        if rate != DETECTOR_RATE:
            raise ValueError(f"features.sample_rate: found {rate}, wanted {DETECTOR_RATE}")
        jobs: list[_Job] = []
        waiting = 0.0
        for index, recording in enumerate(recordings):
            jobs.append(job := _Job(index))
            try:
                with recording.open(rate) as stream:
                    job.total = stream.seconds
                    blocks = job.listen(stream.blocks, rate)
                    for piece in split_speech(blocks, self.max_seconds, detector=self._detector()):
                        job.pieces.append(piece)
                        waiting += piece.end - piece.start
                        if waiting >= self.batch_seconds:
                            yield from self._decode(jobs)
                            waiting = 0.0
            except AudioError as error:
                job.error = error
            job.finished = True
            if waiting == 0.0:
                yield from self._decode(jobs)
        yield from self._decode(jobs)

    def _decode(self, jobs: list[_Job]) -> Iterator[Update]:
        """Recognise all pieces that wait, of all jobs, and drop the jobs that are finished."""
        pieces = [piece for job in jobs for piece in job.pieces]
        found = iter(
            recognize(
                self.bundle,
                [piece.waveform for piece in pieces],
                self.search,
                words=self.words,
                batch_seconds=self.batch_seconds,
            )
        )
        for job in jobs:
            heard = [
                (next(found).to_segment(piece.start, piece.end), piece.waveform)
                for piece in job.pieces
            ]
            job.pieces.clear()
            heard = [pair for pair in heard if self._is_speech(pair[0])]
            yield job.update(
                [segment for segment, _ in heard],
                [waveform for _, waveform in heard] if self.waveforms else [],
            )
        jobs[:] = [job for job in jobs if not job.finished]
        if pieces:
            return_freed_memory()

    def _is_speech(self, segment: Segment) -> bool:
        """Tell whether a segment has text, and enough of it for what was taken for speech."""
        sparsest = _MIN_CHARS_PER_SECOND if self.detect_speech else 0.0
        return len(segment.text) > sparsest * (segment.end - segment.start)

    def _detector(self) -> Detector | None:
        if self.detect_speech:
            return None
        import numpy as np

        from asr.segment import DETECTOR_FRAME

        def everything(waveform: Waveform) -> Waveform:
            # But digital silence, in which the network invents words.
            heard = float(np.ptp(waveform) > 0)
            return np.full(len(waveform) // DETECTOR_FRAME, heard, np.float32)

        return everything


def load_model(
    directory: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    search: SearchConfig | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> Recognizer:
    """Load a model that transcribes.

    Args:
        directory: A model directory; None is the model inside the package.
        device: "cpu", "cuda", or "auto", which takes a GPU if there is one.
        search: How to search; None is the model's own way.
        batch_seconds: Audio that is decoded at once: more needs more memory.

    Raises:
        ValueError: There is no such model or device.
    """
    from pathlib import Path

    from asr.word_parts import start_loading

    folder = None if directory is None else Path(directory)
    words = start_loading(folder)  # before torch is imported, which takes longer

    from asr import checkpoint
    from asr.options import choose_device

    bundle = checkpoint.load_model(folder, choose_device(device), words=words)
    return Recognizer(bundle, search, batch_seconds=batch_seconds)


def _is_one(sound: Any) -> bool:
    """Tell a recording from several; a waveform is what has a type of its numbers."""
    return isinstance(sound, str | os.PathLike) or hasattr(sound, "read") or hasattr(sound, "dtype")
