"""Recordings of any length and kind to transcripts, alone and together, with bounded memory."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from random_model import save_random_model
from test_segment import buzz, hush, loudness

import asr
import asr.recognizer
from asr.audio import AudioError, AudioStream
from asr.checkpoint import ModelBundle
from asr.decode import Recognition
from asr.pieces import recognize
from asr.raw import RawFormat
from asr.recognizer import Recognizer, Recording, Update
from asr.transcript import Transcript

RATE = 16000
Array = NDArray[np.float32]
TALK = np.concatenate([hush(0.5), buzz(2.0), hush(0.5)])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def recognizer(model_dir: Path) -> Recognizer:
    return asr.load_model(model_dir, device="cpu")


@pytest.fixture
def everything(recognizer: Recognizer) -> Recognizer:
    """A recognizer that hears noise as well."""
    return replace(recognizer, detect_speech=False)


def noise(seconds: float, seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal(round(seconds * RATE))).astype(np.float32)


def texts(bundle: ModelBundle, *waveforms: Array) -> list[str]:
    return [result.text for result in recognize(bundle, waveforms)]


def test_one_recording_or_several(everything: Recognizer, tmp_path: Path) -> None:
    first, second = noise(2.0, 1), noise(1.0, 2)
    path = tmp_path / "a.wav"
    soundfile.write(path, first, RATE, subtype="FLOAT")
    wanted = texts(everything.bundle, first, second)
    for sound in (path, str(path), first, first.astype(np.float64), io.BytesIO(path.read_bytes())):
        transcript = everything.transcribe(sound)
        assert transcript.text == wanted[0] and transcript.duration == 2.0
    together = everything.transcribe([path, second, first])
    assert [t.text for t in together] == [wanted[0], wanted[1], wanted[0]]
    assert everything.transcribe(str(p) for p in [path])[0].text == wanted[0]
    assert everything.transcribe([]) == []


def test_rates_channels_and_raw_samples(everything: Recognizer, tmp_path: Path) -> None:
    waveform = noise(1.0)
    (wanted,) = texts(everything.bundle, waveform)
    soundfile.write(tmp_path / "a.wav", np.stack([0 * waveform, waveform], 1), RATE, "FLOAT")
    assert everything.transcribe(tmp_path / "a.wav", channel=2).text == wanted
    (tmp_path / "a.raw").write_bytes(waveform.astype("<f4").tobytes())
    assert everything.transcribe(tmp_path / "a.raw", raw=RawFormat("f32le")).text == wanted
    assert everything.transcribe(noise(0.5), sample_rate=8000).duration == pytest.approx(1.0)


def test_segments_hold_what_was_heard_there(recognizer: Recognizer) -> None:
    waveform = np.concatenate([TALK, hush(7), TALK, hush(8)])
    transcript = recognizer.transcribe(waveform)
    assert len(transcript.segments) == 2
    assert transcript.duration == len(waveform) / RATE
    for segment in transcript.segments:
        piece = waveform[round(segment.start * RATE) : round(segment.end * RATE)]
        assert [segment.text] == texts(recognizer.bundle, piece)
        assert [word.text for word in segment.words] == segment.text.split()
        assert segment.start <= segment.words[0].start < segment.words[-1].end <= segment.end
    without = replace(recognizer, words=False).transcribe(waveform)
    assert without.text == transcript.text and without.segments[0].words == ()


def test_what_is_no_speech_has_no_segments(recognizer: Recognizer) -> None:
    for waveform in (noise(3.0), np.zeros(RATE, np.float32)):
        assert recognizer.transcribe(waveform) == Transcript((), len(waveform) / RATE)


@pytest.mark.parametrize(("text", "is_kept"), [("you", False), ("you see", True), ("", False)])
def test_a_few_characters_in_long_speech_are_noise(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch, text: str, is_kept: bool
) -> None:
    """Twenty seconds without a pause in which the network finds a word or two."""

    def hear(bundle: object, waveforms: Sequence[Array], *_: object, **__: object) -> list[Any]:
        return [Recognition(text) for _ in waveforms]

    monkeypatch.setattr(asr.recognizer, "recognize", hear)
    monkeypatch.setattr("asr.segment.silero_detector", lambda: loudness)
    talk = buzz(20.0)
    assert recognizer.transcribe(talk).text == (text if is_kept else "")
    # Without the detector a piece may hold long silences: there, few words may be all.
    assert replace(recognizer, detect_speech=False).transcribe(talk).text == text
    assert recognizer.transcribe(buzz(2.0)).text == text


def test_digital_silence_is_never_heard(everything: Recognizer) -> None:
    silence = np.zeros(3 * RATE, np.float32)
    assert everything.transcribe(silence) == Transcript((), 3.0)
    assert texts(everything.bundle, silence) != [""], "the network would invent something"
    assert everything.transcribe(np.concatenate([silence, noise(1.0)])).segments


def test_batches_do_not_change_texts_or_order(everything: Recognizer) -> None:
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((3, 0.2, 5, 1, 1, 0.5))]
    wanted = texts(everything.bundle, *waveforms)
    for seconds in (0.1, 2.0, 4.0, 1000.0):
        some = replace(everything, batch_seconds=seconds)
        assert [t.text for t in some.transcribe(waveforms)] == wanted


def test_results_come_as_they_are_ready_and_in_order(
    everything: Recognizer, tmp_path: Path
) -> None:
    long = Recording(noise(10.0))
    bad = Recording(tmp_path / "missing.wav")
    some = replace(everything, batch_seconds=4.0, max_seconds=2.0)
    opened: list[int] = []

    def recordings() -> Iterator[Recording]:
        for number, recording in enumerate((long, bad, Recording(noise(1.0)), bad)):
            opened.append(number)
            yield recording

    updates: list[Update] = []
    for update in some.updates(recordings()):
        if update.segments and not updates:
            assert opened == [0]  # the rest is not even looked at
        updates.append(update)
    finished = [(u.index, type(u.result)) for u in updates if u.result is not None]
    assert finished == [(0, Transcript), (1, AudioError), (2, Transcript), (3, AudioError)]
    parts = [u for u in updates if u.index == 0]
    assert len(parts) > 2
    assert [u.heard for u in parts] == sorted(u.heard for u in parts)
    assert all(u.total == 10.0 for u in parts)
    result = parts[-1].result
    assert isinstance(result, Transcript)
    assert result.segments == tuple(s for u in parts for s in u.segments)


def test_a_recording_that_breaks_off_keeps_no_transcript(
    everything: Recognizer, tmp_path: Path
) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(20.0), RATE)
    path.write_bytes(path.read_bytes()[:-90000])
    with pytest.raises(AudioError, match="truncated"):
        everything.transcribe(path)


def test_threads_do_not_disturb_each_other(recognizer: Recognizer) -> None:
    waveforms = [np.concatenate([TALK, hush(0.1 * n)]) for n in range(6)]
    alone = [recognizer.transcribe(waveform) for waveform in waveforms]
    found: dict[int, Transcript] = {}

    def work(number: int) -> None:
        for index in range(number, len(waveforms), 2):
            found[index] = recognizer.transcribe(waveforms[index])

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(waveforms))] == alone


def test_memory_does_not_grow_with_the_length(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes and forty, with a recognizer that answers at once."""
    turn = np.concatenate([buzz(4), hush(0.5)])

    @contextmanager
    def opened(seconds: int, _: int) -> Iterator[AudioStream]:
        yield AudioStream(1, seconds, (turn.copy() for _ in range(int(seconds / 4.5))))

    def at_once(_: ModelBundle, waveforms: Sequence[Array], *__: Any, **___: Any) -> list[Any]:
        return [Recognition("some words") for _ in waveforms]

    def loudness(waveform: Array) -> Array:
        return (np.abs(waveform.reshape(-1, 512)).max(axis=1) > 0.01).astype(np.float32)

    monkeypatch.setattr(Recording, "open", lambda self, rate: opened(self.sound, rate))
    monkeypatch.setattr(asr.recognizer, "recognize", at_once)
    monkeypatch.setattr("asr.segment.silero_detector", lambda: loudness)

    def peak(seconds: int) -> int:
        tracemalloc.start()
        segments = 0
        for update in recognizer.updates([Recording(seconds)]):
            segments += len(update.segments)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert segments >= seconds / 35
        return size

    peak(60)
    ten_minutes, forty_minutes = peak(600), peak(2400)
    assert forty_minutes < 1.05 * ten_minutes < 40_000_000  # 40 minutes are 154 MB of samples


def test_wrong_arguments_are_named(recognizer: Recognizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"waveform: found shape \(2, 9\), wanted \(N,\)"):
        recognizer.transcribe(np.zeros((2, 9), np.float32))
    with pytest.raises(AudioError, match="nowhere.wav: no such file"):
        recognizer.transcribe(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="found no config.json"):
        asr.load_model(tmp_path)


def test_importing_is_cheap_and_says_nothing() -> None:
    program = (
        "import sys, asr, asr.recognizer; assert 'load_model' in dir(asr); asr.Transcript; "
        "print(*{'torch', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (b"", b"")
    with pytest.raises(AttributeError, match="module 'asr' has no attribute 'laod_model'"):
        asr.laod_model  # noqa: B018
