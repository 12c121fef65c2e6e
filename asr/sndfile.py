"""Sound in wav, flac, ogg, opus, mp3 and others, by libsndfile, and what it does not check.

It reads what is there and keeps quiet about what is missing; `asr.headers` knows better.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from asr import headers
from asr.media import Sound

_BLOCK_SAMPLES = 1 << 17  # of all channels
_MPEG_SLACK_SECONDS = 0.1  # encoders count the padding of the last frames differently
_UNRECOGNISED_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile
_STDERR = threading.Lock()


class SndfileError(ValueError):
    """A file that libsndfile does not read; the message does not name it.

    Attributes:
        unknown: It is in none of its formats; others may know it.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


@contextmanager
def open_sndfile(file: IO[bytes]) -> Iterator[Sound]:
    """Open a searchable, unbuffered file.

    Raises:
        SndfileError: It is truncated, damaged, or in no format of libsndfile.
    """
    import soundfile

    if headers.ends_inside_ogg_page(file):
        raise SndfileError("truncated: ends inside an Ogg page")
    source = _repaired_wav(file)
    count = headers.count_sample_bytes(file)
    if count is not None and count[0] < count[1]:
        found, declared = count
        raise SndfileError(f"truncated: found {found} bytes of samples of {declared}")
    counted = headers.has_xing_frame(file)
    # The MP3 decoder writes warnings of its own to the process's stderr.
    muted = _muted if headers.holds_mpeg(file) else nullcontext
    compressed = headers.is_compressed_wav(file)
    file.seek(0)
    try:
        with muted():
            # The descriptor, not the name: soundfile would take the format from ".raw".
            sound = soundfile.SoundFile(source or file.fileno(), closefd=source is not None)
    except soundfile.LibsndfileError as error:
        if error.code == _UNRECOGNISED_FORMAT:
            wanted = "wanted wav, flac, ogg, opus, mp3, or m4a, mp4, webm, mkv, aac with `media`"
            message = f"is in no known sound format, {wanted}"
            raise SndfileError(message, unknown=True) from error
        raise SndfileError(_damage(error), unknown=compressed) from error
    with sound:
        try:
            yield _read(sound, counted)
        except soundfile.LibsndfileError as error:
            raise SndfileError(_damage(error)) from error


def _damage(error: Any) -> str:
    reason = error.error_string.rstrip(".")
    if "SF_INFO" in reason:
        reason = "its header has an impossible rate or number of channels"
    return f"truncated or damaged ({reason})"


def _read(sound: Any, counted: bool) -> Sound:
    """Read an open file; an MP3 that is not `counted` does not tell how long it is."""
    # soundfile seeks after every read, which fails at the end of streamed FLAC.
    sound.seekable = lambda: False
    rate, channels = int(sound.samplerate), int(sound.channels)
    is_mpeg = sound.subtype.startswith("MPEG")
    muted = _muted if is_mpeg else nullcontext
    streamed = sound.frames >= 1 << 62  # FLAC that does not tell
    known = not streamed and (counted or sound.format != "MP3")

    def blocks() -> Iterator[npt.NDArray[np.float32]]:
        size, found = max(1, _BLOCK_SAMPLES // channels), 0
        while True:
            buffer = np.empty((size, channels), dtype=np.float32)
            with muted():
                block = sound.read(out=buffer)
            if not len(block):
                break
            found += len(block)
            yield block
        slack = _MPEG_SLACK_SECONDS * rate if is_mpeg else 0
        if known and found + slack < sound.frames:
            raise _truncated(found / rate, sound.frames / rate)

    return Sound(rate, channels, sound.frames / rate if known else None, blocks())


@contextmanager
def _muted() -> Iterator[None]:
    """Close the process's stderr for a moment, one thread at a time."""
    if sys.stderr is None:  # closed by whoever started the program
        yield
        return
    with _STDERR:
        sys.stderr.flush()
        kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(null)


def _repaired_wav(file: IO[bytes]) -> headers.RepairedWav | None:
    """Check the length of a WAV file; return it read to its end where its header knows less."""
    data = headers.find_wav_data(file)
    if data is None:
        return None
    if data.truncated:
        rate = max(data.bytes_per_second, 1)
        raise _truncated(data.found / rate, data.declared / rate)
    if data.unfinished and data.found > 0:
        return headers.RepairedWav(file, data)
    return None


def _truncated(found: float, declared: float) -> SndfileError:
    # Enough decimals to see the difference when only a few samples are missing.
    digits = 2 if declared - found >= 0.01 else 6
    return SndfileError(
        f"truncated: found {found:.{digits}f} s, header says {declared:.{digits}f} s"
    )
