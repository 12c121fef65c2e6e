"""Read sound files as 16 kHz mono waveforms, and say what is wrong with those that cannot be.

python -c "from asr.audio import load_audio; print(load_audio('talk.mp3').shape)"
"""

import io
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16000

_BLOCK_SAMPLES = 1 << 20
# Outside this range a rate is a damaged header, and resampling from 1 Hz would eat all memory.
_LOWEST_RATE, _HIGHEST_RATE = 1000, 1_000_000
# Overs of lossy codecs stay near 1; beyond this the numbers are integers stored as floats.
_HIGHEST_PEAK = 4.0
_UNRECOGNISED_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


class AudioError(ValueError):
    """A file that is not readable as sound; the message begins with its path."""


@dataclass(frozen=True)
class _WavData:
    """Place and size of the data chunk of a WAV file, in bytes."""

    start: int
    declared: int
    found: int
    bytes_per_second: int
    unfinished: bool  # the header was written before the length was known

    @property
    def truncated(self) -> bool:
        return not self.unfinished and self.found < self.declared


def load_audio(
    path: str | os.PathLike[str], sample_rate: int = SAMPLE_RATE
) -> npt.NDArray[np.float32]:
    """Read a sound file (wav, flac, ogg, opus, mp3) as one channel at `sample_rate`.

    Args:
        path: the file; any sample rate, any number of channels (they are averaged).
        sample_rate: wanted rate in Hz.

    Returns:
        (N,) waveform in -1..1, never empty.

    Raises:
        AudioError: the file is missing, a folder, empty, no sound file, truncated,
            damaged, or holds no samples, or samples that are not finite.
    """
    with _open_sound(path) as (sound, length_known):
        rate, blocks = int(sound.samplerate), list(_mono_blocks(sound))
        # A tenth of a second: encoders count the padding of the last MP3 frames differently.
        slack = 0.1 * rate if sound.format == "MP3" else 0
        found = sum(len(block) for block in blocks)
        if length_known and found + slack < sound.frames:
            raise _truncated(path, found / rate, sound.frames / rate)
    if found == 0:
        raise AudioError(f"{path}: holds no samples")
    waveform = np.concatenate(blocks)
    _check_values(path, waveform, rate)
    if rate != sample_rate:
        import soxr

        waveform = soxr.resample(waveform, rate, sample_rate)
        if len(waveform) == 0:
            raise AudioError(f"{path}: too short, no samples are left at {sample_rate} Hz")
    return np.clip(waveform, -1.0, 1.0).astype(np.float32, copy=False)


def audio_duration(path: str | os.PathLike[str]) -> float:
    """Return the length of a sound file in seconds, from its header.

    A file whose header does not tell (MP3 without a Xing frame, streamed FLAC) is decoded.

    Raises:
        AudioError: as `load_audio`, as far as the header shows it.
    """
    with _open_sound(path) as (sound, length_known):
        if length_known:
            frames = int(sound.frames)
        else:
            frames = sum(len(block) for block in _mono_blocks(sound))
        if frames == 0:
            raise AudioError(f"{path}: holds no samples")
        return frames / float(sound.samplerate)


@contextmanager
def _open_sound(path: str | os.PathLike[str]) -> Iterator[tuple[Any, bool]]:
    """Open `path` as a soundfile.SoundFile, and tell whether its header knows the length.

    Every failure, here or while the caller reads, becomes an AudioError.
    """
    import soundfile

    _check_file(path)
    try:
        # Unbuffered: libsndfile shares the descriptor and starts at its position.
        with open(path, "rb", buffering=0) as file, _mpg123_muted(file):
            counted = _has_xing_frame(file)
            _check_ogg_end(path, file)
            source = _repaired_wav(path, file)
            file.seek(0)
            # The descriptor, not the name: soundfile would take the format from ".raw".
            with soundfile.SoundFile(source or file.fileno(), closefd=source is not None) as sound:
                if not _LOWEST_RATE <= sound.samplerate <= _HIGHEST_RATE:
                    wanted = f"wanted {_LOWEST_RATE}..{_HIGHEST_RATE} Hz"
                    raise AudioError(f"{path}: its header says {sound.samplerate} Hz, {wanted}")
                # soundfile seeks after every read, which fails at the end of streamed FLAC.
                sound.seekable = lambda: False
                streamed = sound.frames >= 1 << 62  # FLAC that does not tell
                yield sound, not streamed and (counted or sound.format != "MP3")
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        if error.code == _UNRECOGNISED_FORMAT:
            wanted = "wanted wav, flac, ogg, opus or mp3"
            raise AudioError(f"{path}: is in no known sound format, {wanted}") from error
        raise AudioError(f"{path}: truncated or damaged ({reason})") from error
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def _mpg123_muted(file: IO[bytes]) -> Iterator[None]:
    """Keep libsndfile's MP3 decoder from writing warnings of its own to the process's stderr."""
    head = file.read(2)
    if not (head == b"ID" or head[:1] == b"\xff"):
        yield
        return
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _check_file(path: str | os.PathLike[str]) -> None:
    place = Path(path)
    try:
        if place.is_dir():
            raise AudioError(f"{path}: is a folder, wanted a sound file")
        if not place.exists():
            raise AudioError(f"{path}: no such file")
        if not place.is_file():
            raise AudioError(f"{path}: is not a regular file, wanted a sound file")
        if place.stat().st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes), wanted a sound file")
    except OSError as error:  # a folder without permission, a name too long
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error


def _mono_blocks(sound: Any) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the file as (n,) blocks, so that a header that lies cannot ask for all memory."""
    size = max(1, _BLOCK_SAMPLES // sound.channels)
    buffer = np.empty((size, sound.channels), dtype=np.float32)
    while len(block := sound.read(out=buffer)):
        yield block.mean(axis=1, dtype=np.float32)


def _check_values(
    path: str | os.PathLike[str], waveform: npt.NDArray[np.float32], rate: int
) -> None:
    finite = np.isfinite(waveform)
    if not finite.all():
        first = int(np.argmin(finite))
        found = f"the sample at {first / rate:.3f} s is {waveform[first]}"
        raise AudioError(f"{path}: {found}, wanted a finite number")
    peak = float(np.abs(waveform).max())
    if peak > _HIGHEST_PEAK:
        raise AudioError(
            f"{path}: samples reach {peak:g}, wanted -1..1 (integers stored as floats?)"
        )


def _has_xing_frame(file: IO[bytes]) -> bool:
    """Tell whether an MP3 counts its frames; without, the length is guessed from the bit rate."""
    file.seek(0)
    head = file.read(512)
    if head[:3] == b"ID3" and len(head) >= 10:  # tags come first; their size in 4 x 7 bits
        shifts = (21, 14, 7, 0)
        size = sum((b & 0x7F) << shift for b, shift in zip(head[6:10], shifts, strict=True))
        file.seek(10 + size)
        head = file.read(512)
    return b"Xing" in head or b"Info" in head


def _truncated(path: str | os.PathLike[str], found: float, declared: float) -> AudioError:
    # Enough decimals to see the difference when only a few samples are missing.
    digits = 2 if declared - found >= 0.01 else 6
    return AudioError(
        f"{path}: truncated: found {found:.{digits}f} s, header says {declared:.{digits}f} s"
    )


def _repaired_wav(path: str | os.PathLike[str], file: IO[bytes]) -> IO[bytes] | None:
    """Check the length of a WAV file; return a copy with its size filled in where it says 0.

    libsndfile reads what is there and keeps quiet about what is missing. A size of "unknown"
    it reads to the end, but 0, left by programs that were stopped, it takes literally.
    """
    data = _find_wav_data(file)
    if data is None:
        return None
    if data.truncated:
        rate = max(data.bytes_per_second, 1)
        raise _truncated(path, data.found / rate, data.declared / rate)
    if not (data.unfinished and data.declared == 0 and data.found > 0):
        return None
    file.seek(0)
    copy = bytearray(file.read())
    copy[data.start - 4 : data.start] = struct.pack("<I", min(data.found, 0xFFFFFFFF))
    return io.BytesIO(bytes(copy))


def _find_wav_data(file: IO[bytes]) -> _WavData | None:
    """Find the data chunk of a RIFF file; None for other formats and for broken headers."""
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    riff_size = int.from_bytes(head[4:8], "little")
    bytes_per_second, place = 0, 12
    while place + 8 <= file_size:
        file.seek(place)
        name, size = struct.unpack("<4sI", file.read(8))
        place += 8
        if name == b"fmt ":
            bytes_per_second = int.from_bytes(file.read(16)[8:12], "little")
        if name == b"data":
            found = file_size - place
            # A true size of 0 has nothing, or other chunks inside the RIFF size, behind it.
            stopped = size == 0 and (_is_unknown(riff_size) or 8 + riff_size <= place)
            unfinished = stopped or (size > 0 and _is_unknown(size))
            return _WavData(place, size, found, bytes_per_second, unfinished)
        place += size + size % 2
    return None


def _is_unknown(size: int) -> bool:
    """Tell the sizes that programs write to a pipe: 0, all ones, or just under 2 GiB."""
    return size == 0 or size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x7FFFFFFF


def _check_ogg_end(path: str | os.PathLike[str], file: IO[bytes]) -> None:
    """Refuse an Ogg file that ends inside a page: libsndfile would drop the rest in silence."""
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(4) != b"OggS":
        return
    file.seek(max(0, file_size - _LARGEST_OGG_PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 0
    page_size = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < page_size:
        raise AudioError(f"{path}: truncated: ends inside an Ogg page")
