"""Reading sound: formats against the waveform that was written, and damage of every kind."""

import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import SAMPLE_RATE, AudioError, audio_duration, load_audio

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
