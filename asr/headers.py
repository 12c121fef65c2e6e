"""What sound files say about themselves in their headers, where libsndfile takes their word.

It reads what is there and keeps quiet about what is missing, and it believes sizes that a program
wrote before it knew better. `asr.audio` asks here first.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

_WAV_UNKNOWN = b"\xff\xff\xff\xff"
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_WAV_ENCODINGS = {
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le",
    (3, 32): "f32le", (3, 64): "f64le", (6, 8): "alaw", (7, 8): "mulaw",
}  # fmt: skip
_EXTENSIBLE, _MPEG, _MP3 = 0xFFFE, 0x0050, 0x0055
_PLAIN = (1, 3, _EXTENSIBLE)  # tags of samples that are not compressed
_MOST_CHUNKS = 10_000  # of a file; zeros would be taken for empty chunks for hours
_W64_CHUNK = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # behind the four letters of its names


@dataclass(frozen=True)
class WavData:
    """Place and size of the data chunk of a WAV file.

    Attributes:
        start: First byte of the samples.
        declared: Bytes, by the header.
        found: Bytes that are there.
        bytes_per_second: By the header.
        unfinished: The header was written before the length was known, or the file grew after.
    """

    start: int
    declared: int
    found: int
    bytes_per_second: int
    unfinished: bool

    @property
    def truncated(self) -> bool:
        """Tell whether samples are missing."""
        return not self.unfinished and self.found < self.declared


@dataclass(frozen=True)
class WavFormat:
    """How the samples of a WAV stream are stored; `size` is None where it is not known yet."""

    encoding: str
    sample_rate: int
    num_channels: int
    size: int | None


def find_wav_data(file: IO[bytes]) -> WavData | None:
    """Find the data chunk of a RIFF file; None for other formats and for broken headers."""
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    riff_size = int.from_bytes(head[4:8], "little")
    bytes_per_second = 0
    for name, place, size in _riff_chunks(file, file_size):
        if name == b"fmt ":
            bytes_per_second = int.from_bytes(file.read(16)[8:12], "little")
        if name == b"data":
            # A true size of 0 has nothing, or other chunks inside the RIFF size, behind it.
            stopped = size == 0 and (_is_unknown(riff_size) or 8 + riff_size <= place)
            unfinished = stopped or (size > 0 and _is_unknown(size))
            end = place + size + size % 2
            if not unfinished and 8 + riff_size <= end < file_size:
                unfinished = not _are_chunks(file, end, file_size)
            return WavData(place, size, file_size - place, bytes_per_second, unfinished)
    return None


def _riff_chunks(
    file: IO[bytes], file_size: int, form: str = "<4sI", place: int = 12
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte and size of the chunks behind `place`, with the file at that byte."""
    header = struct.calcsize(form)
    for _ in range(_MOST_CHUNKS):
        if place + header > file_size:
            break
        file.seek(place)
        name, size = struct.unpack(form, file.read(header))
        yield name, place + header, size
        place += header + max(size, 0) + size % 2


def count_sample_bytes(file: IO[bytes]) -> tuple[int, int] | None:
    """Return how many bytes of samples there are and should be, in AIFF, AU, CAF, RF64 and W64.

    libsndfile reads what is there of these. None where the header does not tell.
    """
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(40)
    place, size = 0, -1
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        place, size = _find_chunk(_riff_chunks(file, file_size, ">4sI"), b"SSND")
    elif head[:4] == b"caff":
        place, size = _find_chunk(_riff_chunks(file, file_size, ">4sq", 8), b"data")
    elif head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and len(head) >= 36:
        place, size = _find_chunk(_riff_chunks(file, file_size), b"data")
        if size == 0xFFFFFFFF:
            return file_size - place, int.from_bytes(head[28:36], "little")
    elif head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        place, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    elif head[:4] == b"riff" and head[24:28] == b"wave":
        place, size = _find_chunk(_w64_chunks(file, file_size), b"data")
    if size <= 0 or (size < 1 << 32 and _is_unknown(size)):
        return None
    return max(file_size - place, 0), size


def _find_chunk(chunks: Iterator[tuple[bytes, int, int]], wanted: bytes) -> tuple[int, int]:
    """Return the first byte and the size of the first chunk of a name; without one, no size: -1."""
    return next(((place, size) for name, place, size in chunks if name == wanted), (0, -1))


def _w64_chunks(file: IO[bytes], file_size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, first byte and size of the chunks of a W64 file."""
    place = 40
    for _ in range(_MOST_CHUNKS):
        if place + 24 > file_size:
            break
        file.seek(place)
        head = file.read(24)
        if head[4:16] != _W64_CHUNK:
            break
        size = int.from_bytes(head[16:], "little")  # of its header too
        yield head[:4], place + 24, size - 24
        place += max(size, 24) + -size % 8


def find_wav_tag(file: IO[bytes]) -> int | None:
    """Return the number of the encoding of a WAV file, None for other files."""
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    for name, _, _ in _riff_chunks(file, os.fstat(file.fileno()).st_size):
        if name == b"fmt ":
            return int.from_bytes(file.read(2), "little")
    return None


def is_compressed_wav(file: IO[bytes]) -> bool:
    """Tell whether the samples of a WAV file are compressed, in whatever way."""
    return find_wav_tag(file) not in (None, *_PLAIN)


def holds_mpeg(file: IO[bytes]) -> bool:
    """Tell whether libsndfile's MP3 decoder will read it: an MP3 file, or MP3 in WAV."""
    file.seek(0)
    head = file.read(2)
    return head == b"ID" or head[:1] == b"\xff" or find_wav_tag(file) in (_MPEG, _MP3)


def _are_chunks(file: IO[bytes], place: int, end: int) -> bool:
    """Tell whether what follows the samples is further chunks, and not samples that came later."""
    for name, start, size in _riff_chunks(file, end, place=place):
        if not all(0x20 <= byte < 0x7F for byte in name) or start + size > end:
            return False
    return True


def _is_unknown(size: int) -> bool:
    """Tell the sizes that programs write to a pipe: 0, all ones, or just under 2 GiB."""
    return size == 0 or size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x7FFFFFFF


class RepairedWav(io.RawIOBase):
    """A WAV file that says "until the end" where its header gives the size of its samples."""

    def __init__(self, file: IO[bytes], data: WavData) -> None:
        self._file = file
        self._place = data.start - 4

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be searched."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into `buffer` with the size of the samples replaced."""
        start = self._file.tell()
        content = bytearray(self._file.read(len(buffer)))
        for index, byte in enumerate(_WAV_UNKNOWN, self._place - start):
            if 0 <= index < len(content):
                content[index] = byte
        buffer[: len(content)] = content
        return len(content)


def read_wav_format(read: Callable[[int], bytes]) -> WavFormat | None:
    """Read the header of a WAV stream that cannot be searched, up to its first sample.

    Args:
        read: Gives so many next bytes, fewer only at the end. "RIFF", a size and "WAVE" are past.

    Returns:
        None if the header is broken or the samples are compressed.
    """
    encoding, rate, channels = None, 0, 0
    while len(chunk := read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            known = None if _is_unknown(size) else size
            return None if encoding is None else WavFormat(encoding, rate, channels, known)
        if size > 1 << 24:  # no header is that long
            return None
        content = read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
            if tag == _EXTENSIBLE and len(content) >= 26:
                tag = int.from_bytes(content[24:26], "little")
            encoding = _WAV_ENCODINGS.get((tag, bits))
    return None


def has_xing_frame(file: IO[bytes]) -> bool:
    """Tell whether an MP3 counts its frames; without, the length is guessed from the bit rate."""
    file.seek(0)
    head = file.read(512)
    if head[:3] == b"ID3" and len(head) >= 10:  # tags come first; their size in 4 x 7 bits
        shifts = (21, 14, 7, 0)
        size = sum((b & 0x7F) << shift for b, shift in zip(head[6:10], shifts, strict=True))
        file.seek(10 + size)
        head = file.read(512)
    return b"Xing" in head or b"Info" in head


def ends_inside_ogg_page(file: IO[bytes]) -> bool:
    """Tell whether an Ogg file is cut: libsndfile would drop the rest in silence."""
    file_size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, file_size - _LARGEST_OGG_PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 0
    page_size = 27 + num_segments + sum(page[27 : 27 + num_segments])
    return len(page) < page_size
