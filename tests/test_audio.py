"""Reading sound: formats against the waveform that was written, and damage of every kind."""

import io
import os
import struct
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, AudioError, audio_duration, load_audio, open_audio, open_waveform
from asr.raw import RawFormat

SECONDS = 1.5
FORMATS = {  # extension: libsndfile's format, subtype, error allowed against the sine
    "wav": ("WAV", "PCM_16", 2e-3),
    "flac": ("FLAC", "PCM_16", 2e-3),
    "ogg": ("OGG", "VORBIS", 5e-2),
    "opus": ("OGG", "OPUS", 5e-2),
    "mp3": ("MP3", "MPEG_LAYER_III", 5e-2),
}


def sine(sample_rate: int, seconds: float = SECONDS) -> np.ndarray:
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    return (0.4 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def write(path: Path, waveform: np.ndarray, sample_rate: int, kind: str, subtype: str) -> Path:
    soundfile.write(path, waveform, sample_rate, format=kind, subtype=subtype)
    return path


def message(path: Path | str) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_gives_the_waveform_back(tmp_path, extension, sample_rate, channels):
    kind, subtype, allowed = FORMATS[extension]
    stereo = np.stack([sine(sample_rate) * gain for gain in (1.5, 0.5)][:channels], axis=1)
    path = write(tmp_path / f"a.{extension}", stereo, sample_rate, kind, subtype)
    waveform = load_audio(path)
    if sample_rate == 8000:
        allowed *= 3  # lossy codecs are coarser there
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - SECONDS * SAMPLE_RATE) <= 2
    assert audio_duration(path) == pytest.approx(SECONDS, abs=1e-3)
    truth = sine(SAMPLE_RATE) * (1.5 if channels == 1 else 1.0)
    middle = slice(2000, len(truth) - 2000)  # filters ring at the ends
    assert np.abs(waveform[middle] - truth[middle]).max() < allowed


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF"])
def test_every_sample_width_reads(tmp_path, subtype, kind):
    path = write(tmp_path / "a.wav", sine(16000), 16000, kind, subtype)
    allowed = 1e-2 if subtype == "PCM_U8" else 1e-4
    assert np.abs(load_audio(path) - sine(16000)).max() < allowed


@pytest.mark.parametrize("sample_rate", [7350, 11025, 22050, 44100, 96000, 192000])
def test_odd_rates_and_eight_channels(tmp_path, sample_rate):
    eight = np.stack([sine(sample_rate)] * 8, axis=1)
    path = write(tmp_path / "a.wav", eight, sample_rate, "WAV", "PCM_16")
    waveform = load_audio(path)
    truth = sine(SAMPLE_RATE)
    middle = slice(2000, len(truth) - 2000)
    assert np.abs(waveform[middle] - truth[middle]).max() < 2e-3


def test_the_name_does_not_decide_the_format(tmp_path):
    for extension in ("raw", "mp3", "txt", ""):
        path = write(tmp_path / f"talk.{extension}", sine(16000), 16000, "FLAC", "PCM_16")
        assert len(load_audio(path)) == SECONDS * 16000


def test_other_target_rate_and_string_path(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    assert len(load_audio(str(path), 8000)) == SECONDS * 8000


def test_a_long_file_is_read_over_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("asr.audio._BLOCK_SAMPLES", 1000)
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "FLOAT")
    np.testing.assert_array_equal(load_audio(path), sine(16000))


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000, 192000])
def test_resampling_in_blocks_has_no_seams(tmp_path, monkeypatch, sample_rate):
    """Block by block or all at once, the same samples."""
    noise = np.random.default_rng(1).normal(0, 0.1, sample_rate * 2 + 77).astype(np.float32)
    path = write(tmp_path / "a.wav", noise, sample_rate, "WAV", "FLOAT")
    whole = soxr.resample(noise, sample_rate, SAMPLE_RATE)
    for size in (1 << 17, 1000, 77):
        monkeypatch.setattr("asr.audio._BLOCK_SAMPLES", size)
        np.testing.assert_allclose(load_audio(path), whole, atol=2e-6)


def test_one_channel_or_the_mean(tmp_path):
    three = np.stack([sine(16000) * gain for gain in (1.0, 0.5, 0.0)], axis=1)
    path = write(tmp_path / "a.wav", three, 16000, "WAV", "FLOAT")
    for channel, gain in ((None, 0.5), (1, 1.0), (2, 0.5), (3, 0.0)):
        np.testing.assert_allclose(load_audio(path, channel=channel), gain * sine(16000), atol=1e-6)
    for channel in (0, 4):
        with pytest.raises(AudioError, match=f"found 3 channels, wanted channel {channel}"):
            load_audio(path, channel=channel)


def test_waveforms_in_memory():
    for waveform in (sine(16000), sine(16000).astype(np.float64), np.int16(sine(16000) * 32767)):
        stream = open_waveform(waveform, 16000)
        assert stream.seconds == SECONDS
        assert np.abs(np.concatenate(list(stream.blocks)) - sine(16000)).max() < 1e-4
    blocks = open_waveform(sine(48000), 48000).blocks
    assert len(np.concatenate(list(blocks))) == SECONDS * 16000
    with pytest.raises(ValueError, match=r"found shape \(2, 5\), wanted \(N,\)"):
        open_waveform(np.zeros((2, 5)), 16000)
    with pytest.raises(ValueError, match="found type int32, wanted floats in -1..1 or int16"):
        open_waveform(np.zeros(5, np.int32), 16000)
    with pytest.raises(ValueError, match="found 16 Hz"):
        open_waveform(np.zeros(5), 16)


class Pipe(io.RawIOBase):
    """Content that comes in pieces and cannot be searched."""

    def __init__(self, content, most=999):
        self.content = io.BytesIO(content)
        self.most = most

    def readable(self):
        return True

    def readinto(self, buffer):
        content = self.content.read(min(len(buffer), self.most))
        buffer[: len(content)] = content
        return len(content)


def pipe(content):
    return io.BufferedReader(Pipe(content))


@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_comes_through_a_pipe(tmp_path, extension):
    kind, subtype, _ = FORMATS[extension]
    path = write(tmp_path / "a", sine(16000), 16000, kind, subtype)
    np.testing.assert_array_equal(load_audio(pipe(path.read_bytes())), load_audio(path))


@pytest.mark.parametrize("most", [1, 2, 7, 4095])
@pytest.mark.parametrize("extension", FORMATS)
def test_unbuffered_files_may_give_little_at_a_time(tmp_path, extension, most):
    kind, subtype, _ = FORMATS[extension]
    path = write(tmp_path / "a", sine(16000, 0.3), 16000, kind, subtype)
    heard = load_audio(Pipe(path.read_bytes(), most))
    np.testing.assert_array_equal(heard, load_audio(path))
    if kind == "WAV":
        raw = RawFormat("s16le", 16000)
        samples = path.read_bytes()[44:]
        np.testing.assert_array_equal(load_audio(Pipe(samples, most), raw=raw), heard)
        with pytest.raises(AudioError, match="truncated: lacks 2 of the 9600 bytes"):
            load_audio(Pipe(path.read_bytes()[:-2], most))


def test_files_that_are_not_to_be_read_as_bytes(tmp_path):
    class Waiting(io.RawIOBase):
        def readinto(self, buffer):
            return None

    with pytest.raises(AudioError, match=r"^binary file: has nothing to read yet, wanted a file"):
        load_audio(Waiting())
    path = tmp_path / "a.txt"
    path.write_text("text\n" * 99)
    with (
        path.open() as file,
        pytest.raises(AudioError, match=f"^{path}: gives text, wanted a file"),
    ):
        load_audio(file)


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
)
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_pipe_whatever_its_header_says(tmp_path, kind, subtype, size):
    path = write(tmp_path / "a.wav", sine(16000), 16000, kind, subtype)
    content = bytearray(path.read_bytes())
    if size is not None:
        place = content.index(b"data") + 4
        content[place : place + 4] = struct.pack("<I", size)
    np.testing.assert_array_equal(load_audio(pipe(content)), load_audio(path))


def test_a_wav_pipe_is_heard_while_it_is_written(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000, 20), 16000, "WAV", "PCM_16")
    reading, writing = os.pipe()
    content = path.read_bytes()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb") as other:
        other.write(content[:44])
        other.flush()
        feeder = threading.Thread(target=lambda: (other.write(content[44:300_000]), other.flush()))
        feeder.start()
        with open_audio(file) as stream:
            assert stream.seconds == 20
            first = next(stream.blocks)  # although the other end is still open
            np.testing.assert_array_equal(first, load_audio(path)[: len(first)])
            feeder.join()
            other.close()
            with pytest.raises(AudioError, match="binary file: truncated"):
                list(stream.blocks)


def test_a_named_pipe(tmp_path):
    path = write(tmp_path / "a.flac", sine(16000), 16000, "FLAC", "PCM_16")
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(path.read_bytes()))
    feeder.start()
    np.testing.assert_array_equal(load_audio(tmp_path / "pipe"), load_audio(path))
    feeder.join()


def test_pipes_of_nonsense():
    for content, reason in ((b"", "is empty"), (b"RIFF\0\0\0\0WAVE", "truncated or damaged")):
        with pytest.raises(AudioError, match=f"^binary file: {reason}"):
            load_audio(pipe(content))
    with pytest.raises(AudioError, match="^binary file: is in no known sound format"):
        load_audio(pipe(b"this is a text\n" * 99))


def test_overs_are_clipped_and_integers_as_floats_refused(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000) * 4, 16000, "WAV", "FLOAT")
    assert np.abs(load_audio(path)).max() == 1.0
    path = write(tmp_path / "b.wav", sine(16000) * 32768, 16000, "WAV", "FLOAT")
    assert "wanted -1..1" in message(path)


def test_what_is_no_sound_file(tmp_path):
    assert "no such file" in message(tmp_path / "missing.wav")
    assert "is a folder" in message(tmp_path)
    assert "not a regular file" in message("/dev/null")
    (tmp_path / "empty.wav").touch()
    assert "is empty (0 bytes)" in message(tmp_path / "empty.wav")
    (tmp_path / "text.wav").write_text("this is a text file\n" * 100)
    assert "no known sound format" in message(tmp_path / "text.wav")
    assert "cannot be read" in message(tmp_path / ("x" * 300))


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_no_samples(tmp_path, kind):
    path = write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000, kind, "PCM_16")
    message(path)
    with pytest.raises(AudioError):
        audio_duration(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path, bad):
    waveform = sine(16000)
    waveform[8000] = bad
    path = write(tmp_path / "a.wav", waveform, 16000, "WAV", "FLOAT")
    assert f"the sample at 0.500 s is {bad}" in message(path)


def test_truncated_wav_says_how_much_is_missing(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[: 44 + 16000])
    assert "truncated: found 0.50 s, header says 1.50 s" in message(path)
    with pytest.raises(AudioError, match="truncated"):
        audio_duration(path)
    path.write_bytes(content[:-2])  # a single sample
    assert "truncated: found 1.499937 s, header says 1.500000 s" in message(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("kind", ["AIFF", "AU", "CAF", "RF64", "W64"])
def test_other_truncated_containers_say_what_is_missing(tmp_path, kind, subtype):
    path = write(tmp_path / "a.bin", sine(16000), 16000, kind, subtype)
    content = path.read_bytes()
    length = len(load_audio(path))
    assert length == SECONDS * 16000
    for missing in (100, 20_000):
        path.write_bytes(content[: len(content) - missing])
        if kind == "CAF":  # has room behind its samples
            path.write_bytes(content[: content.find(b"data") + 16 + 8000])
        assert "truncated: found" in message(path)


def test_a_size_that_no_file_has(tmp_path):
    """Decoders of compressed samples would go on for hours."""
    path = write(tmp_path / "a.w64", sine(8000), 8000, "W64", "GSM610")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 16
    for size in (1 << 35, (1 << 63) + 5):
        content[place : place + 8] = struct.pack("<Q", size)
        path.write_bytes(content)
        assert "truncated: found" in message(path)


def test_zeros_are_no_chunks(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\0\0\0\0WAVE" + bytes(50_000_000))
    started = time.monotonic()
    assert "truncated or damaged" in message(path)
    assert time.monotonic() - started < 5


def test_mp3_inside_wav(tmp_path, capfd):
    """Its decoder counts a little more than it gives, and writes warnings of its own."""
    av = pytest.importorskip("av")
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=16000)
        samples = (32767 * sine(16000, 2.016)).astype(np.int16)
        for start in range(0, len(samples), 576):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 576], "s16p", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(len(load_audio(path)) - len(samples)) < 3000
    assert capfd.readouterr() == ("", "")


def test_what_only_ffmpeg_knows(tmp_path):
    """Formats without a mark at their beginning, and encodings that libsndfile lacks."""
    av = pytest.importorskip("av")
    stream_of = {"a.ts": ("mp2", "s16", "mpegts"), "b.wav": ("adpcm_yamaha", "s16", "wav")}
    for name, (codec, sample_format, container_format) in stream_of.items():
        with av.open(str(tmp_path / name), "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=48000, layout="mono")
            samples = (32767 * sine(48000)).astype(np.int16)
            size = stream.codec_context.frame_size or 1024
            for start in range(0, len(samples) - size, size):
                part = samples[None, start : start + size]
                frame = av.AudioFrame.from_ndarray(part, sample_format, "mono")
                frame.sample_rate = 48000
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        waveform = load_audio(tmp_path / name)
        assert abs(len(waveform) - SECONDS * 16000) < 2000
        assert np.abs(waveform).max() > 0.3


def test_truncated_flac_ogg_and_mp3(tmp_path):
    for extension, (kind, subtype, _) in FORMATS.items():
        path = write(tmp_path / f"a.{extension}", sine(48000), 48000, kind, subtype)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        assert "truncated" in message(path), extension


@pytest.mark.parametrize(
    ("riff_size", "data_size"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg to a pipe
        (0x7FFFF024, 0x7FFFF000),  # sox and espeak-ng to a pipe
        (0xFFFFFFFF, 0),
        (0, 0),
        (36, 0),  # a recorder that was stopped before it closed the file
    ],
)
def test_streamed_wav_is_read_to_its_end(tmp_path, riff_size, data_size):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = struct.pack("<I", riff_size)
    content[40:44] = struct.pack("<I", data_size)
    path.write_bytes(content)
    assert len(load_audio(path)) == SECONDS * 16000
    assert audio_duration(path) == pytest.approx(SECONDS)


@pytest.mark.parametrize("known", [1, 8000, 23000])
def test_a_wav_file_that_grew_after_its_header_was_written(tmp_path, known):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 36 + 2 * known)
    content[40:44] = struct.pack("<I", 2 * known)
    path.write_bytes(content)
    np.testing.assert_array_equal(load_audio(path), sine_as_16_bits())
    assert audio_duration(path) == pytest.approx(SECONDS)


def sine_as_16_bits():
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
        return load_audio(path)


def test_a_long_unfinished_wav_is_not_copied(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000, 60), 16000, "WAV", "PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    path.write_bytes(content + bytes(20_000_000))
    tracemalloc.start()
    with open_audio(path) as stream:
        total = sum(len(block) for block in stream.blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 60 * 16000 + 10_000_000 and peak < 5_000_000


def test_an_empty_data_chunk_before_other_chunks_stays_empty(tmp_path):
    path = write(tmp_path / "a.wav", np.zeros(0, np.float32), 16000, "WAV", "PCM_16")
    content = bytearray(path.read_bytes()[:44] + b"LIST" + struct.pack("<I", 400) + bytes(400))
    content[4:8] = struct.pack("<I", len(content) - 8)
    path.write_bytes(content)
    assert "holds no samples" in message(path)


def test_chunks_after_the_data_are_no_sound(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 400) + bytes(400))
    assert len(load_audio(path)) == SECONDS * 16000


def test_flac_that_does_not_know_its_length(tmp_path):
    path = write(tmp_path / "a.flac", sine(16000), 16000, "FLAC", "PCM_16")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert len(load_audio(path)) == SECONDS * 16000
    assert audio_duration(path) == SECONDS


def test_mp3_without_a_frame_count_is_not_called_truncated(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 48000 * 3).astype(np.float32)
    waveform = np.concatenate([np.zeros(48000 * 3, np.float32), noise])
    path = tmp_path / "a.mp3"
    soundfile.write(path, waveform, 48000, format="MP3", bitrate_mode="VARIABLE")
    content = path.read_bytes()
    path.write_bytes(content[content.find(content[:2], 10) :])  # drop the Xing frame
    assert len(load_audio(path)) == pytest.approx(6 * SAMPLE_RATE, abs=2000)
    assert audio_duration(path) == pytest.approx(6, abs=0.1)
    tag = b"ID3\x03\x00\x00" + bytes([0, 0, 8, 0]) + bytes(1024)
    path.write_bytes(tag + content)
    assert len(load_audio(path)) == 6 * SAMPLE_RATE
    path.write_bytes(tag + content[: len(content) // 2])
    assert "truncated" in message(path)


def test_header_with_an_impossible_rate(tmp_path):
    path = write(tmp_path / "a.wav", sine(16000), 16000, "WAV", "PCM_16")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", 1)
    path.write_bytes(content)
    assert "its header says 1 Hz" in message(path)


def contents() -> dict[str, bytes]:
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for extension, (kind, subtype, _) in FORMATS.items():
            path = write(Path(folder) / "a", sine(16000, 0.3), 16000, kind, subtype)
            made[extension] = path.read_bytes()
        path = write(Path(folder) / "a", sine(16000, 0.3), 16000, "WAV", "FLOAT")
        made["float wav"] = path.read_bytes()
    return made


CONTENTS = contents()


@settings(max_examples=300, deadline=None)
@given(
    content=st.sampled_from(sorted(CONTENTS)),
    cut=st.floats(0, 1),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_damage_gives_sound_or_an_audio_error(content, cut, changes):
    """Cut anywhere and with bytes changed near its start, a file loads or is refused, no more."""
    damaged = bytearray(CONTENTS[content])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    damaged = damaged[: round(cut * len(damaged))]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.wav")
        Path(path).write_bytes(damaged)
        for function in (load_audio, audio_duration):
            try:
                result = function(path)
            except AudioError as error:
                assert str(error).startswith(path)
                continue
            if function is load_audio:
                assert result.dtype == np.float32 and result.ndim == 1 and len(result) > 0
                assert np.isfinite(result).all() and np.abs(result).max() <= 1
            else:
                assert result > 0


@pytest.mark.parametrize("content", sorted(CONTENTS))
def test_cut_at_every_early_byte(tmp_path, content):
    path = tmp_path / "a.wav"
    for size in range(150):
        path.write_bytes(CONTENTS[content][:size])
        message(path)


def test_a_cut_mp3_writes_nothing_of_its_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 64000), 16000)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path)
    print("still here", file=sys.stderr)
    assert capfd.readouterr().err == "still here\n"
