"""The corpus in data/tiny: what its README promises, and that its maker still makes it."""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE, audio_duration, load_audio
from asr.manifest import read_manifest
from asr.normalize import normalize_text

ROOT = Path(__file__).parent.parent
TINY = ROOT / "data" / "tiny"
SCRIPT = ROOT / "scripts" / "make_tiny_corpus.py"
MANIFESTS = {split: read_manifest(TINY / f"{split}.jsonl") for split in ("train", "dev", "test")}
EVERYTHING = [utterance for utterances in MANIFESTS.values() for utterance in utterances]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_tiny_corpus", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tiny_corpus"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["make_tiny_corpus"]


def values(split: str, name: str) -> set[str]:
    return {getattr(utterance, name) for utterance in MANIFESTS[split]}


def test_splits_are_as_long_as_the_readme_says():
    minutes = {
        split: sum(utterance.duration for utterance in utterances) / 60
        for split, utterances in MANIFESTS.items()
    }
    readme = (ROOT / "data" / "README.md").read_text()
    for split, utterances in MANIFESTS.items():
        speakers = len(values(split, "speaker"))
        assert f"| {split} | {speakers} | {len(utterances)} | {minutes[split]:.1f} |" in readme


def test_it_stays_small():
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) < 5_000_000


@pytest.mark.parametrize(("one", "other"), [("train", "dev"), ("train", "test"), ("dev", "test")])
def test_splits_share_no_speaker_and_no_sentence(one, other):
    assert not values(one, "speaker") & values(other, "speaker")
    assert not values(one, "text") & values(other, "text")
    assert not values(one, "id") & values(other, "id")


def test_every_word_is_heard_often_in_training():
    heard = Counter(word for item in MANIFESTS["train"] for word in item.text.split())
    everywhere = {word for item in EVERYTHING for word in item.text.split()}
    assert 60 <= len(everywhere) <= 100
    assert min(heard[word] for word in everywhere) >= 20
    assert set("".join(everywhere)) == set("abcdefghijklmnopqrstuvwxyz'")


def test_texts_are_normal_sentences():
    for utterance in EVERYTHING:
        assert re.fullmatch(r"[a-z']+( [a-z']+){2,8}", utterance.text)
        assert normalize_text(utterance.text) == utterance.text


def test_manifests_name_the_files_that_are_there():
    written = {Path(utterance.audio_filepath) for utterance in EVERYTHING}
    assert len(written) == len(EVERYTHING)
    assert written == set((TINY / "audio").rglob("*.*"))
    assert not any(
        line.startswith('{"audio_filepath": "/')
        for split in MANIFESTS
        for line in (TINY / f"{split}.jsonl").read_text().splitlines()
    )


def test_durations_are_those_of_the_files():
    for utterance in EVERYTHING:
        assert audio_duration(utterance.audio_filepath) == pytest.approx(
            utterance.duration, abs=1e-3
        )
        assert 0.7 < utterance.duration < 6
    for utterance in EVERYTHING[::50]:
        waveform = load_audio(utterance.audio_filepath)
        assert len(waveform) == pytest.approx(utterance.duration * SAMPLE_RATE, abs=1)
        assert 0.15 < np.abs(waveform).max() <= 1


def test_checksums_and_sentences(maker):
    assert maker.check_files(TINY) == []
    assert maker.check_plan(TINY) == []


def test_checksums_notice_changes(maker, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    sums = [f"{digest}  {name}\n" for name, digest in maker.digests(tmp_path).items()]
    (tmp_path / "SHA256SUMS").write_text("".join(sums))
    assert maker.check_files(tmp_path) == []
    (tmp_path / "a").write_text("other")
    (tmp_path / "b").unlink()
    (tmp_path / "d").touch()
    assert maker.check_files(tmp_path) == [
        "b: missing",
        "d: not in SHA256SUMS",
        "a: other content",
    ]


def test_encoding_depends_on_the_sound_alone(maker, tmp_path):
    waveform = (0.5 * np.sin(np.arange(40000) * 0.1)).astype(np.float32)
    content = maker.encode(waveform)
    assert content == maker.encode(waveform)
    (tmp_path / "a.opus").write_bytes(content)
    decoded = load_audio(tmp_path / "a.opus")
    assert len(decoded) == len(waveform)
    assert np.corrcoef(decoded, waveform)[0, 1] > 0.98


@pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="speaking again needs flite and espeak-ng",
)
def test_voices_say_it_again(maker):
    _, differ = maker.check_speech(TINY, every=100)  # other encoders may give other bytes
    assert differ == []


def test_missing_voices_are_named_with_the_way_to_get_them(tmp_path):
    result = subprocess.run(
        [sys.executable, SCRIPT, "--folder", tmp_path],
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "found no flite and no espeak-ng" in result.stderr
    assert "sudo apt-get install flite espeak-ng" in result.stderr


def test_demo_recording_and_its_transcript():
    demo = ROOT / "data" / "demo" / "sense_and_sensibility.flac"
    assert audio_duration(demo) == 7.1
    readme = (ROOT / "data" / "README.md").read_text()
    assert hashlib.sha256(demo.read_bytes()).hexdigest() in readme
    text = demo.with_suffix(".txt").read_text().strip()
    assert normalize_text(text) == text and len(text.split()) == 21
