"""Samples without a header, as other programs write them to a pipe.

arecord -f S16_LE -r 16000 -t raw | python -m asr.transcribe --raw s16le:16000 -
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Names of FFmpeg: libsndfile's name, its byte order, bytes.
ENCODINGS = {
    "s8": ("PCM_S8", "LITTLE", 1), "u8": ("PCM_U8", "LITTLE", 1),
    "s16le": ("PCM_16", "LITTLE", 2), "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3), "s24be": ("PCM_24", "BIG", 3),
    "s32le": ("PCM_32", "LITTLE", 4), "s32be": ("PCM_32", "BIG", 4),
    "f32le": ("FLOAT", "LITTLE", 4), "f32be": ("FLOAT", "BIG", 4),
    "f64le": ("DOUBLE", "LITTLE", 8), "f64be": ("DOUBLE", "BIG", 8),
    "mulaw": ("ULAW", "LITTLE", 1), "alaw": ("ALAW", "LITTLE", 1),
}  # fmt: skip
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # resampling from 1 Hz would eat all memory
_MOST_CHANNELS = 1024  # libsndfile's


class RawError(ValueError):
    """Not a format of raw samples, or not all of them; the message does not name the file."""


@dataclass(frozen=True)
class RawFormat:
    """How samples without a header are stored.

    Attributes:
        encoding: One of `ENCODINGS`.
        sample_rate: Hz.
        num_channels: Their samples take turns.
    """

    encoding: str
    sample_rate: int = 16000
    num_channels: int = 1

    def __post_init__(self) -> None:
        """Refuse what is not a format."""
        if self.encoding not in ENCODINGS:
            raise RawError(f"found {self.encoding!r}, wanted one of {' '.join(ENCODINGS)}")
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise RawError(f"found {self.sample_rate} Hz, wanted {LOWEST_RATE}..{HIGHEST_RATE} Hz")
        if not 1 <= self.num_channels <= _MOST_CHANNELS:
            raise RawError(f"found {self.num_channels} channels, wanted 1..{_MOST_CHANNELS}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return ENCODINGS[self.encoding][2] * self.num_channels


def parse_raw_format(text: str) -> RawFormat:
    """Read "s16le:16000:1": encoding, rate in Hz (16000) and number of channels (1).

    Raises:
        RawError: It is something else.
    """
    encoding, *numbers = text.split(":")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise RawError(f"found {text!r}, wanted ENCODING:RATE:CHANNELS such as s16le:16000:1")
    return RawFormat(encoding, *map(int, numbers))


def read_whole(file: IO[bytes], count: int) -> bytes:
    """Read so many bytes, fewer only at the end: a pipe or a socket gives what it has just got.

    Raises:
        RawError: It gives text, or nothing although it has not ended.
    """
    parts: list[bytes] = []
    while count > 0:
        content: bytes | str | None = file.read(count)
        if content is None:
            raise RawError("has nothing to read yet, wanted a file that waits (blocking)")
        if isinstance(content, str):
            raise RawError("gives text, wanted a file that is open in binary mode ('rb')")
        if not content:
            break
        parts.append(content)
        count -= len(content)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_raw(
    file: IO[bytes], raw: RawFormat, size: int | None, frames_each: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield (n, C) blocks in -1..1 from a file that need not be searchable.

    Args:
        file: At its first sample; it may give fewer bytes than asked for.
        raw: How they are stored.
        size: Bytes to read; None is to the end.
        frames_each: Length of a block.

    Raises:
        RawError: The file ends inside a sample, or before `size`, or as `read_whole`.
    """
    import soundfile

    subtype, endian, _ = ENCODINGS[raw.encoding]
    left = size
    while True:
        wanted = frames_each * raw.frame_bytes
        content = read_whole(file, wanted if left is None else min(left, wanted))
        left = None if left is None else left - len(content)
        if missing := -len(content) % raw.frame_bytes:
            raise RawError(f"truncated: the last sample lacks {missing} bytes")
        if not content:
            break
        samples, _ = soundfile.read(
            io.BytesIO(content), dtype="float32", always_2d=True, format="RAW", subtype=subtype,
            endian=endian, channels=raw.num_channels, samplerate=raw.sample_rate,
        )  # fmt: skip
        yield samples
    if left:
        raise RawError(f"truncated: lacks {left} of the {size} bytes that its header says")
