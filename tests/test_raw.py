"""Samples without a header: every encoding against NumPy or libsndfile."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from asr.audio import AudioError, open_audio
from asr.raw import ENCODINGS, RawError, RawFormat, parse_raw_format, read_raw

WAVEFORM = (0.5 * np.sin(np.arange(1000) / 7)).astype(np.float32)


def encode(encoding: str, waveform: np.ndarray = WAVEFORM) -> bytes:
    """Write samples as NumPy does; the laws of telephony as libsndfile does."""
    if encoding in ("mulaw", "alaw"):
        file = io.BytesIO()
        subtype = {"mulaw": "ULAW", "alaw": "ALAW"}[encoding]
        soundfile.write(file, waveform, 8000, format="RAW", subtype=subtype)
        return file.getvalue()
    order = ">" if encoding.endswith("be") else "<"
    bits = int("".join(filter(str.isdigit, encoding)))
    if encoding[0] == "f":
        return waveform.astype(f"{order}f{bits // 8}").tobytes()
    whole = np.round(waveform * 2.0 ** (bits - 1)).astype(np.int64)
    if encoding == "u8":
        return (whole + 128).astype(np.uint8).tobytes()
    if bits == 24:
        four = whole.astype(f"{order}i4").tobytes()
        rows = np.frombuffer(four, np.uint8).reshape(-1, 4)
        return rows[:, 1:].tobytes() if order == ">" else rows[:, :3].tobytes()
    return whole.astype(f"{order}i{bits // 8}").tobytes()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_encoding_gives_the_samples_back(encoding: str, channels: int) -> None:
    raw = RawFormat(encoding, 8000, channels)
    blocks = list(read_raw(io.BytesIO(encode(encoding)), raw, None, 64))
    assert all(block.shape[1] == channels for block in blocks)
    samples = np.concatenate(blocks).reshape(-1)
    allowed = {"s8": 1e-2, "u8": 1e-2, "mulaw": 2e-2, "alaw": 2e-2}.get(encoding, 2e-5)
    assert np.abs(samples - WAVEFORM).max() <= allowed


def test_it_stops_where_the_header_says() -> None:
    content = encode("s16le")
    (block,) = read_raw(io.BytesIO(content), RawFormat("s16le"), 100, 1000)
    assert len(block) == 50
    with pytest.raises(RawError, match="truncated: lacks 100 of the 2100 bytes"):
        list(read_raw(io.BytesIO(content), RawFormat("s16le"), 2100, 64))
    with pytest.raises(RawError, match="truncated: the last sample lacks 1 bytes"):
        list(read_raw(io.BytesIO(content[:-1]), RawFormat("s16le"), None, 64))


def test_formats_are_read_from_text() -> None:
    assert parse_raw_format("s16le") == RawFormat("s16le", 16000, 1)
    assert parse_raw_format("mulaw:8000") == RawFormat("mulaw", 8000, 1)
    assert parse_raw_format("f32be:48000:6") == RawFormat("f32be", 48000, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s17", "found 's17', wanted one of s8 u8 s16le"),
        ("s16le:fast", "found 's16le:fast', wanted ENCODING:RATE:CHANNELS"),
        ("s16le:16000:1:2", "wanted ENCODING:RATE:CHANNELS"),
        ("s16le:16", "found 16 Hz, wanted 1000..1000000 Hz"),
        ("s16le:16000:0", "found 0 channels, wanted 1..1024"),
    ],
)
def test_other_text_is_explained(text: str, message: str) -> None:
    with pytest.raises(RawError) as caught:
        parse_raw_format(text)
    assert message in str(caught.value)


def test_a_raw_file_is_resampled_and_its_channel_chosen() -> None:
    both = np.stack([WAVEFORM, -0.5 * WAVEFORM], axis=1).reshape(-1)
    for channel, gain in ((None, 0.25), (1, 1.0), (2, -0.5)):
        file = io.BytesIO(encode("f32le", both))
        with open_audio(file, 16000, channel=channel, raw=RawFormat("f32le", 16000, 2)) as stream:
            np.testing.assert_allclose(
                np.concatenate(list(stream.blocks)), gain * WAVEFORM, atol=1e-6
            )
    file = io.BytesIO(encode("f32le", both))
    with (
        pytest.raises(AudioError, match="binary file: found 2 channels, wanted channel 3"),
        open_audio(file, channel=3, raw=RawFormat("f32le", 16000, 2)),
    ):
        pass
