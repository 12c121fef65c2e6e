"""Sound in m4a, mp4, webm, mkv and other containers, by PyAV, which brings its own FFmpeg.

The extra `media` installs it: pip install 'asr[media]'
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any

import numpy as np
import numpy.typing as npt

# Only these demuxers: others, such as playlists, would open further files or addresses.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,ogg,tta,wav,wv"
)
_TELL_DURATION = ("mov", "matroska", "avi", "asf")  # others guess it from the bit rate
_SLACK_SECONDS = 0.5  # between a container's duration and that of its sound
_MAGIC = {  # offset, bytes
    "m4a, mp4 or mov": (4, b"ftyp"),
    "mkv or webm": (0, b"\x1a\x45\xdf\xa3"),
    "avi": (8, b"AVI "),
    "wma or wmv": (0, b"\x30\x26\xb2\x75"),
    "amr": (0, b"#!AMR"),
    "flv": (0, b"FLV\x01"),
    "mpeg": (0, b"\x00\x00\x01\xba"),
    "ac3": (0, b"\x0b\x77"),
    "wv": (0, b"wvpk"),
    "tta": (0, b"TTA1"),
    "ape": (0, b"MAC "),
}
_SYNC = 0x47  # of MPEG transport streams: the first of each 188 bytes, or 192 with a time stamp
CONTAINER_BYTES = 200  # that tell a container from others


class MediaError(ValueError):
    """A container that cannot be read; the message does not name the file."""


@dataclass(frozen=True)
class Sound:
    """What a decoder finds in an open file.

    Attributes:
        sample_rate: Hz.
        num_channels: C.
        seconds: Its length by the header, if that can be relied on.
        blocks: (n, C) float32, in -1..1.
    """

    sample_rate: int
    num_channels: int
    seconds: float | None
    blocks: Iterator[npt.NDArray[np.float32]]


def container_name(head: bytes) -> str | None:
    """Return which container begins with these `CONTAINER_BYTES`, if it is one of PyAV's."""
    for name, (offset, magic) in _MAGIC.items():
        if head[offset : offset + len(magic)] == magic:
            return name
    # ADTS: twelve ones, and a layer of 0, which no MP3 has.
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"
    for offset, size in ((0, 188), (4, 192)):
        if len(head) > offset + size and head[offset] == head[offset + size] == _SYNC:
            return "ts"
    # MIDI's dumps of samples: libsndfile writes what it thinks of them to standard output.
    return "sds" if head[:2] == b"\xf0\x7e" else None


@contextmanager
def open_media(file: IO[bytes]) -> Iterator[Sound]:
    """Open a container, a searchable file, with PyAV.

    Raises:
        MediaError: PyAV is not installed, or the container cannot be read or holds no sound.
    """
    try:
        import av
    except ImportError as error:
        raise MediaError("needs the extra `media`: pip install 'asr[media]'") from error
    try:
        file.seek(0)
        with av.open(
            file, "r", metadata_errors="ignore", container_options={"format_whitelist": _FORMATS}
        ) as container:
            if not container.streams.audio:
                raise MediaError("holds no sound, wanted an audio stream")
            frames = container.decode(container.streams.audio[0])
            first = next(frames, None)
            if first is None:
                raise MediaError("holds no samples")
            rate, channels = first.sample_rate, first.layout.nb_channels
            seconds = _seconds(container)
            blocks = _blocks(av, first, frames, seconds)
            yield Sound(rate, channels, seconds, blocks)
    except (av.error.FFmpegError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"truncated or damaged ({reason})") from error


def _blocks(
    av: Any, first: Any, frames: Iterator[Any], seconds: float | None
) -> Iterator[npt.NDArray[np.float32]]:
    def resampled() -> Iterator[Any]:
        # A stream may change its rate or channels on the way, as HE-AAC and broadcasts do; all
        # becomes what it was at first. A resampler takes only one kind of frame.
        kind = resampler = None
        for frame in chain([first], frames):
            if kind != (frame.format.name, frame.layout.name, frame.sample_rate):
                if resampler is not None:
                    yield from resampler.resample(None)
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                resampler = av.AudioResampler("fltp", first.layout, first.sample_rate)
            assert resampler is not None
            frame.pts = None  # damaged time stamps are none of its business
            yield from resampler.resample(frame)
        assert resampler is not None
        yield from resampler.resample(None)

    rate, found = first.sample_rate, 0
    for frame in resampled():
        found += frame.samples
        yield frame.to_ndarray().T  # (C, n) -> (n, C)
    if seconds is not None and found / rate + _SLACK_SECONDS < seconds:
        raise MediaError(f"truncated: found {found / rate:.2f} s, header says {seconds:.2f} s")


def _seconds(container: Any) -> float | None:
    """Return how long the first sound is, where the container tells."""
    if not container.format.name.startswith(_TELL_DURATION):
        return None
    stream = container.streams.audio[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None
