"""Read sound files as 16 kHz mono waveforms, and say what is wrong with those that cannot be.

python -c "from asr.audio import load_audio; print(load_audio('talk.mp3').shape)"
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from asr import headers
from asr.media import CONTAINER_BYTES, MediaError, Sound, container_name, open_media
from asr.names import printable
from asr.raw import HIGHEST_RATE, LOWEST_RATE, RawError, RawFormat, read_raw, read_whole
from asr.sndfile import SndfileError, open_sndfile

Waveform = npt.NDArray[np.float32]
Source = str | os.PathLike[str] | IO[bytes]

SAMPLE_RATE = 16000

_BLOCK_SAMPLES = 1 << 17  # of one channel: 8 s at 16 kHz
_COPY_BYTES = 1 << 18  # of a pipe that must be searched
# Overs of lossy codecs stay near 1; beyond this the numbers are integers stored as floats.
_HIGHEST_PEAK = 4.0


class AudioError(ValueError):
    """A file that is not readable as sound; the message begins with its path."""


@dataclass(frozen=True)
class AudioStream:
    """An open sound file.

    Attributes:
        num_channels: In the file.
        seconds: Its length by the header; None where the header does not tell.
        blocks: (n,) waveforms in -1..1, one after the other, at the wanted rate.
    """

    num_channels: int
    seconds: float | None
    blocks: Iterator[Waveform]


def load_audio(
    path: Source,
    sample_rate: int = SAMPLE_RATE,
    *,
    channel: int | None = None,
    raw: RawFormat | None = None,
) -> Waveform:
    """Read a whole sound file as one channel at `sample_rate`; arguments as for `open_audio`.

    Returns:
        (N,) waveform in -1..1, never empty.
    """
    with open_audio(path, sample_rate, channel=channel, raw=raw) as stream:
        return np.concatenate(list(stream.blocks))


def audio_duration(path: str | os.PathLike[str]) -> float:
    """Return the length of a sound file in seconds, from its header.

    A file whose header does not tell (MP3 without a Xing frame, streamed FLAC) is decoded.

    Raises:
        AudioError: as `open_audio`, as far as the header shows it.
    """
    with _open(path, None) as sound:
        seconds = sound.seconds if sound.sample_rate else 0
        if seconds is None:
            seconds = sum(len(block) for block in sound.blocks) / sound.sample_rate
        if seconds == 0:
            raise AudioError(f"{_name(path)}: holds no samples")
        return seconds


@contextmanager
def open_audio(
    source: Source,
    sample_rate: int = SAMPLE_RATE,
    *,
    channel: int | None = None,
    raw: RawFormat | None = None,
) -> Iterator[AudioStream]:
    """Open a sound file of any length, to be read block by block.

    wav, flac, ogg, opus and mp3 always; m4a, mp4, webm, mkv, aac and others with the extra
    `media`. A WAV file that was still growing when its header was written is read to its end.

    Args:
        source: Path, or a binary file that need not be searchable, such as standard input; any
            sample rate, any number of channels.
        sample_rate: Wanted rate in Hz.
        channel: The wanted one, from 1 on; None takes the mean of all.
        raw: The format of samples without a header.

    Raises:
        AudioError: The file is missing, a folder, empty, no sound file, truncated, damaged, or
            holds no samples, or samples that are not finite. Some of these are found only when
            the blocks are read.
    """
    name = _name(source)
    with _open(source, raw) as sound:
        if not LOWEST_RATE <= sound.sample_rate <= HIGHEST_RATE:
            wanted = f"wanted {LOWEST_RATE}..{HIGHEST_RATE} Hz"
            raise AudioError(f"{name}: its header says {sound.sample_rate} Hz, {wanted}")
        if channel is not None and not 1 <= channel <= sound.num_channels:
            found = f"found {sound.num_channels} channels"
            raise AudioError(f"{name}: {found}, wanted channel {channel}")
        blocks = _one_channel(name, sound, channel)
        blocks = _resampled(name, blocks, sound.sample_rate, sample_rate)
        yield AudioStream(sound.num_channels, sound.seconds, blocks)


def open_waveform(
    waveform: npt.ArrayLike, sample_rate: int, wanted_rate: int = SAMPLE_RATE
) -> AudioStream:
    """Read a waveform in memory as if it were a file.

    Args:
        waveform: (N,) floats in -1..1, or int16.
        sample_rate: Its rate in Hz.
        wanted_rate: Of the blocks.

    Raises:
        ValueError: It has another shape or type, or no samples.
    """
    samples = np.asarray(waveform)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"waveform: found shape {samples.shape}, wanted (N,), one channel")
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise ValueError(f"waveform: found {sample_rate} Hz, wanted {LOWEST_RATE}..{HIGHEST_RATE}")
    scale = 1.0
    if samples.dtype == np.int16:
        scale = 1 / 32768
    elif not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"waveform: found type {samples.dtype}, wanted floats in -1..1 or int16")
    blocks = (
        samples[start : start + _BLOCK_SAMPLES, None].astype(np.float32) * np.float32(scale)
        for start in range(0, len(samples), _BLOCK_SAMPLES)
    )
    seconds = len(samples) / sample_rate
    mono = _one_channel("waveform", Sound(sample_rate, 1, seconds, blocks), None)
    return AudioStream(1, seconds, _resampled("waveform", mono, sample_rate, wanted_rate))


def _name(source: Source) -> str:
    """Return what a user calls a source."""
    if isinstance(source, str | os.PathLike):
        return printable(source)
    if sys.stdin is not None and source is getattr(sys.stdin, "buffer", None):
        return "standard input"
    name = getattr(source, "name", None)  # a number for a descriptor
    return printable(name) if isinstance(name, str) and name[:1] != "<" else "binary file"


@contextmanager
def _open(source: Source, raw: RawFormat | None) -> Iterator[Sound]:
    """Open a source with the decoder that knows it; every failure becomes an AudioError."""
    name = _name(source)
    try:
        if not isinstance(source, str | os.PathLike):
            with _open_pipe(name, source, raw) as sound:
                yield sound
        elif Path(source).is_fifo() or raw is not None:
            _check_file(source, pipes=True)
            with open(source, "rb") as pipe, _open_pipe(name, pipe, raw) as sound:
                yield sound
        else:
            _check_file(source)
            # Unbuffered: libsndfile shares the descriptor and starts at its position.
            with open(source, "rb", buffering=0) as file, _open_file(name, file) as sound:
                yield sound
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror or error})") from error


@contextmanager
def _open_pipe(name: str, file: IO[bytes], raw: RawFormat | None) -> Iterator[Sound]:
    """Open a file that can only be read once: raw samples and WAV as they come."""
    size = None
    kept = bytearray()  # what was read to find out what it is

    def read(count: int) -> bytes:
        try:
            content = read_whole(file, count)
        except RawError as error:
            raise AudioError(f"{name}: {error}") from error
        kept.extend(content)
        return content

    if raw is None:
        head = read(12)
        if not head:
            raise AudioError(f"{name}: is empty (0 bytes), wanted a sound file")
        is_wav = head[:4] == b"RIFF" and head[8:] == b"WAVE"
        found = headers.read_wav_format(read) if is_wav else None
        if found is not None:
            size = found.size
            try:
                raw = RawFormat(found.encoding, found.sample_rate, found.num_channels)
            except RawError as error:
                raise AudioError(f"{name}: its header is damaged ({error})") from error
    if raw is not None:
        yield _raw_sound(name, file, raw, size)
        return
    # Other formats must be searched. Unbuffered, as in `_open`.
    with tempfile.TemporaryFile(buffering=0) as copy:
        copy.write(kept)
        kept.clear()
        while read(_COPY_BYTES):
            copy.write(kept)
            kept.clear()
        with _open_file(name, copy) as sound:
            yield sound


def _raw_sound(name: str, file: IO[bytes], raw: RawFormat, size: int | None) -> Sound:
    def blocks() -> Iterator[Waveform]:
        try:
            yield from read_raw(file, raw, size, max(1, _BLOCK_SAMPLES // raw.num_channels))
        except RawError as error:
            raise AudioError(f"{name}: {error}") from error

    seconds = None if size is None else size // raw.frame_bytes / raw.sample_rate
    return Sound(raw.sample_rate, raw.num_channels, seconds, blocks())


@contextmanager
def _open_file(name: str, file: IO[bytes]) -> Iterator[Sound]:
    """Open a searchable file with libsndfile, or else with PyAV."""
    file.seek(0)
    container = container_name(file.read(CONTAINER_BYTES))
    refusal = None
    try:
        if container is None:
            with open_sndfile(file) as sound:
                yield sound
            return
    except SndfileError as error:
        refusal = AudioError(f"{name}: {error}")
        if not error.unknown:
            raise refusal from error
    try:
        with open_media(file) as sound:
            container, refusal = container or "sound", None
            yield sound
    except MediaError as error:
        # What neither knows may be anything: then what FFmpeg thinks of it does not help.
        raise (refusal or AudioError(f"{name}: {container}: {error}")) from error


def _check_file(path: str | os.PathLike[str], *, pipes: bool = False) -> None:
    place, name = Path(path), _name(path)
    if not place.exists():
        raise AudioError(f"{name}: no such file")
    if place.is_dir():
        raise AudioError(f"{name}: is a folder, wanted a sound file")
    if not (place.is_file() or (pipes and place.is_fifo())):
        raise AudioError(f"{name}: is not a regular file, wanted a sound file")
    if place.is_file() and place.stat().st_size == 0:
        raise AudioError(f"{name}: is empty (0 bytes), wanted a sound file")


def _one_channel(name: str, sound: Sound, channel: int | None) -> Iterator[Waveform]:
    """Yield (n,) blocks of one channel or of the mean of all, checked."""
    found = 0
    for block in sound.blocks:
        wanted = block if channel is None else block[:, channel - 1 : channel]
        with np.errstate(invalid="ignore", over="ignore"):  # complained about below, in our words
            mono = wanted.mean(axis=1, dtype=np.float32)
        _check_values(name, mono, found, sound.sample_rate)
        found += len(mono)
        yield mono
    if found == 0:
        raise AudioError(f"{name}: holds no samples")


def _resampled(name: str, blocks: Iterator[Waveform], rate: int, wanted: int) -> Iterator[Waveform]:
    """Yield the same sound at another rate, without seams between blocks, in -1..1."""
    if rate != wanted:
        blocks = _convert(name, blocks, rate, wanted)
    for block in blocks:
        yield np.clip(block, -1.0, 1.0)


def _convert(name: str, blocks: Iterator[Waveform], rate: int, wanted: int) -> Iterator[Waveform]:
    import soxr

    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32")
    any_left = False
    for block in chain(blocks, [None]):
        last = block is None
        result = stream.resample_chunk(np.zeros(0, np.float32) if block is None else block, last)
        if len(result):
            any_left = True
            yield result
    if not any_left:
        raise AudioError(f"{name}: too short, no samples are left at {wanted} Hz")


def _check_values(name: str, waveform: Waveform, start: int, rate: int) -> None:
    finite = np.isfinite(waveform)
    if not finite.all():
        first = int(np.argmin(finite))
        found = f"the sample at {(start + first) / rate:.3f} s is {waveform[first]}"
        raise AudioError(f"{name}: {found}, wanted a finite number")
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > _HIGHEST_PEAK:
        raise AudioError(
            f"{name}: samples reach {peak:g}, wanted -1..1 (integers stored as floats?)"
        )
