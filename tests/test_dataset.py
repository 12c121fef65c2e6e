"""Batches: every utterance once, of like durations, in an order that can be taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr.audio import AudioError
from asr.config import DataConfig
from asr.dataset import DurationBatches, SpeechDataset, load_utterances, make_loader
from asr.manifest import Utterance, read_manifest, write_manifest
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer("abcd")
DATA = DataConfig(alphabet="abcd")


@given(
    st.lists(st.floats(0.3, 40), min_size=1, max_size=80),
    st.floats(1, 100), st.integers(1, 20), st.integers(0, 3),
)  # fmt: skip
def test_every_utterance_once_within_the_limits(
    durations: list[float], seconds: float, size: int, epoch: int
) -> None:
    batches = DurationBatches(durations, seconds, size, seed=0, short_first=True).epoch(epoch)
    assert sorted(i for b in batches for i in b) == list(range(len(durations)))
    for batch in batches:
        assert len(batch) <= size
        padded = max(durations[i] for i in batch) * len(batch)
        assert len(batch) == 1 or padded <= seconds


def test_little_padding_and_other_batches_in_other_epochs() -> None:
    durations = np.random.default_rng(0).uniform(1, 16, 2000).tolist()
    order = DurationBatches(durations, 60, 64, seed=1)
    batches = order.epoch(1)
    padded = sum(max(durations[i] for i in b) * len(b) for b in batches)
    assert padded < 1.1 * sum(durations)
    assert batches == DurationBatches(durations, 60, 64, seed=1).epoch(1)
    assert {tuple(sorted(b)) for b in batches} != {tuple(sorted(b)) for b in order.epoch(2)}


def test_first_epoch_goes_from_short_to_long() -> None:
    durations = np.random.default_rng(0).uniform(1, 16, 500).tolist()
    batches = DurationBatches(durations, 60, 64, seed=1, short_first=True).epoch(0)
    longest = [max(durations[i] for i in b) for b in batches]
    assert np.all(np.diff(longest) > -1.6)  # sorted but for the blur


def test_batches_are_padded_waveforms_and_tokens(tone_manifest: Path) -> None:
    utterances, left_out = load_utterances([str(tone_manifest)], DATA)
    assert left_out == {}
    dataset = SpeechDataset(utterances, TOKENIZER, 16000)
    (batch,) = make_loader(dataset, [[3, 0, 7]], num_workers=0, pin=False)
    for row, index in enumerate((3, 0, 7)):
        samples, count = batch.num_samples[row].item(), batch.token_lengths[row].item()
        assert samples == round(utterances[index].duration * 16000)
        assert not batch.waveform[row, samples:].any()
        assert TOKENIZER.decode(batch.tokens[row, :count].tolist()) == utterances[index].text
    assert batch.indices == (3, 0, 7)


def test_workers_change_nothing(tone_manifest: Path) -> None:
    dataset = SpeechDataset(read_manifest(tone_manifest), TOKENIZER, 16000)
    batches = DurationBatches([u.duration for u in dataset.utterances], 5, 8, seed=0).epoch(0)
    alone = list(make_loader(dataset, batches, num_workers=0, pin=False))
    helped = list(make_loader(dataset, batches, num_workers=2, pin=False))
    assert len(alone) == len(helped) == len(batches)
    for one, other in zip(alone, helped, strict=True):
        assert one.indices == other.indices and torch.equal(one.waveform, other.waveform)


def test_cache_gives_the_same_audio_without_reading_the_file_again(
    tone_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = read_manifest(tone_manifest)
    plain = SpeechDataset(utterances, TOKENIZER, 16000).waveform(0)
    cached = SpeechDataset(utterances, TOKENIZER, 16000, str(tmp_path / "cache"))
    first = cached.waveform(0)
    monkeypatch.setattr("asr.dataset.load_audio", lambda *_: pytest.fail("read again"))
    assert torch.equal(cached.waveform(0), first)
    torch.testing.assert_close(first, plain, atol=1 / 32767, rtol=0)


def test_what_is_left_out_is_counted(tone_manifest: Path, tmp_path: Path) -> None:
    good = read_manifest(tone_manifest)[0]
    items = [
        good,
        replace(good, text="", id="1"),
        replace(good, text="xyz", id="2"),
        replace(good, duration=99.0, id="3"),
        replace(good, duration=0.1, id="4"),
    ]
    write_manifest(tmp_path / "m.jsonl", items)
    kept, left_out = load_utterances([str(tmp_path / "m.jsonl")], DATA)
    assert [u.text for u in kept] == [good.text]
    assert left_out == {
        "empty text": 1, "characters outside the alphabet": 1,
        "longer than 20 s": 1, "shorter than 0.3 s": 1,
    }  # fmt: skip


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("x.wav", 1.0, "zzz")])
    with pytest.raises(ValueError, match="found no usable utterance"):
        load_utterances([str(tmp_path / "m.jsonl")], DATA)
    with pytest.raises(ValueError, match="found no manifest"):
        load_utterances([], DATA)


def test_unreadable_files_are_left_out_and_named(tone_manifest: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tone_manifest)[:3]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    missing = str(tmp_path / "missing.wav")
    utterances += [replace(utterances[0], audio_filepath=str(p)) for p in (broken, missing)]
    for cache in ("", str(tmp_path / "cache")):
        dataset = SpeechDataset(utterances, TOKENIZER, 16000, cache)
        batch = dataset[[3, 1, 4, 2]]
        assert batch.indices == (1, 2) and len(batch.waveform) == len(batch.tokens) == 2
        assert len(batch.problems) == 2
        assert "broken.wav" in batch.problems[0] and "missing.wav" in batch.problems[1]
        with pytest.raises(AudioError, match="missing.wav"):
            dataset[[4]]
