"""Containers of other programs: written with PyAV, read back, cut, and without PyAV."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.audio import AudioError, audio_duration, load_audio, open_audio
from asr.media import container_name

av = pytest.importorskip("av")
RATE = 48000
SECONDS = 2.0
KINDS = {"m4a": "aac", "mp4": "aac", "mov": "aac", "mkv": "aac", "webm": "libopus", "aac": "aac"}


def sine(sample_rate: int, channels: int = 1) -> np.ndarray:
    times = np.arange(round(SECONDS * sample_rate)) / sample_rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * times)
    gains = np.linspace(1.5, 0.5, channels) if channels > 1 else np.ones(1)
    return (gains[:, None] * tone).astype(np.float32)  # (C, N)


def encode(path: Path, codec: str, waveform: np.ndarray, video: bool = False) -> Path:
    with av.open(str(path), "w", format="adts" if path.suffix == ".aac" else None) as container:
        layout = {1: "mono", 2: "stereo"}[len(waveform)]
        stream = container.add_stream(codec, rate=RATE, layout=layout)
        if video:
            picture = container.add_stream("mpeg4", rate=5)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for _ in range(round(SECONDS * 5)):
                image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        samples = np.ascontiguousarray(waveform)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = RATE
        fifo = av.AudioFifo()
        fifo.write(frame)
        for part in fifo.read_many(stream.frame_size or 1024, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_containers_give_the_waveform_back(tmp_path: Path, kind: str, channels: int) -> None:
    path = encode(tmp_path / f"a.{kind}", KINDS[kind], sine(RATE, channels))
    waveform = load_audio(path)
    assert len(waveform) == pytest.approx(SECONDS * 16000, abs=1000)  # encoders pad
    assert audio_duration(path) == pytest.approx(SECONDS, abs=0.1)
    # A sine of the right height and pitch, whatever delay the codec has.
    middle = waveform[4000:28000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 16000 / len(middle) == pytest.approx(440, abs=1)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.02)
    if channels == 2:
        with open_audio(path, channel=2) as stream:
            second = np.concatenate(list(stream.blocks))
        assert stream.num_channels == 2
        assert np.sqrt(np.mean(second[4000:28000] ** 2)) == pytest.approx(0.2 / 2**0.5, rel=0.03)


def test_a_film_is_heard_and_its_name_does_not_matter(tmp_path: Path) -> None:
    path = encode(tmp_path / "film.mkv", "aac", sine(RATE), video=True)
    renamed = path.rename(tmp_path / "talk.wav")
    assert len(load_audio(renamed)) == pytest.approx(SECONDS * 16000, abs=2500)


@pytest.mark.parametrize("kind", ["aac", "mpg"])
def test_a_stream_may_change_its_rate_and_channels(tmp_path: Path, kind: str) -> None:
    codec, form, content = {"aac": ("aac", "adts"), "mpg": ("mp2", "mpeg")}[kind] + (b"",)
    for rate, channels in ((48000, 1), (44100, 2), (32000, 1)):
        path = tmp_path / f"{rate}.{kind}"
        with av.open(str(path), "w", format=form) as container:
            layout = "mono" if channels == 1 else "stereo"
            stream = container.add_stream(codec, rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(sine(rate, channels), "fltp", layout)
            frame.sample_rate = rate
            resampler = av.AudioResampler(stream.codec_context.format, layout, rate)
            fifo = av.AudioFifo()
            fifo.write(resampler.resample(frame)[0])
            for part in fifo.read_many(stream.frame_size, partial=True):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
        content += path.read_bytes()
    (tmp_path / "joined").write_bytes(content)
    waveform = load_audio(tmp_path / "joined")
    assert len(waveform) == pytest.approx(3 * SECONDS * 16000, abs=5000)
    for number in range(3):
        middle = waveform[round((number + 0.25) * SECONDS * 16000) :][:16000]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        assert np.argmax(spectrum) == pytest.approx(440, abs=2)


def test_a_film_without_sound(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        picture = container.add_stream("mpeg4", rate=5)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(picture.encode(image))
        container.mux(picture.encode(None))
    with pytest.raises(AudioError, match=r"silent\.mp4: m4a, mp4 or mov: holds no sound"):
        load_audio(tmp_path / "silent.mp4")


@pytest.mark.parametrize("kind", ["m4a", "mkv", "webm"])
def test_cut_containers_are_refused_or_say_that_they_are_cut(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", KINDS[kind], sine(RATE))
    content = path.read_bytes()
    for size in [*range(1, 64), *range(64, len(content) * 6 // 10, 997)]:
        path.write_bytes(content[:size])
        for function in (load_audio, audio_duration):
            try:
                result = function(path)
            except AudioError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
                continue
            assert function is audio_duration and result > 0, size


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("media")
    return {
        kind: encode(folder / f"a.{kind}", KINDS[kind], sine(RATE)[:, : RATE // 5]).read_bytes()
        for kind in ("m4a", "webm", "aac")
    }


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["m4a", "webm", "aac"]),
    cut=st.floats(0.5, 1),
    changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=5),
)
def test_damage_gives_sound_or_an_audio_error(
    contents: dict[str, bytes], kind: str, cut: float, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(contents[kind])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        path.write_bytes(damaged[: round(cut * len(damaged))])
        try:
            waveform = load_audio(path)
        except AudioError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert np.isfinite(waveform).all() and np.abs(waveform).max() <= 1


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.m4a", "aac", sine(RATE))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError) as caught:
        load_audio(path)
    assert str(caught.value) == (
        f"{path}: m4a, mp4 or mov: needs the extra `media`: pip install 'asr[media]'"
    )


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.m4a").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n"
    )
    with pytest.raises(AudioError, match="in no known sound format"):
        load_audio(tmp_path / "list.m4a")


def test_beginnings_of_files() -> None:
    assert container_name(b"\x00\x00\x00\x20ftypisom") == "m4a, mp4 or mov"
    assert container_name(b"\x1a\x45\xdf\xa3" + bytes(8)) == "mkv or webm"
    assert container_name(b"\xff\xf1\x50\x80" + bytes(8)) == "aac"
    for other in (b"\xff\xfb\x90\x64", b"RIFF1234WAVE", b"OggS", b"fLaC", b"ID3\x03", b""):
        assert container_name(other) is None
