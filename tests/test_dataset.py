"""Training's batches: padded tensors, the same updates for any number of processes, resumable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from asr.batch import Batch, Position, TrainingSource
from asr.config import DataConfig
from asr.dataset import SpeechDataset, load_utterances, make_loader, open_source
from asr.manifest import Utterance, read_manifest, write_manifest
from asr.order import DurationBatches
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer("abcd")
DATA = DataConfig(alphabet="abcd", batch_seconds=3.0, max_batch_size=4)


def open_all(
    manifest: Path, world: int = 1, config: DataConfig = DATA, seed: int = 1
) -> list[TrainingSource]:
    """Open a manifest in all processes."""
    return [
        open_source([str(manifest)], config, TOKENIZER, 16000, seed, rank, world)
        for rank in range(world)
    ]


def counted(batches: Sequence[Batch]) -> list[int]:
    """Return the utterances of a step of all processes that count, sorted."""
    return sorted(
        index
        for batch in batches
        for index, counts in zip(batch.indices, batch.counts.tolist(), strict=True)
        if counts
    )


def take(
    sources: list[TrainingSource], position: Position, steps: int
) -> tuple[list[list[int]], Position]:
    """Make steps in all processes; return each step's utterances and the position behind."""
    streams = [source.batches(position) for source in sources]
    seen = []
    for _ in range(steps):
        pairs = [next(stream) for stream in streams]
        seen.append(counted([batch for batch, _ in pairs]))
        assert len({position for _, position in pairs}) == 1
        position = pairs[0][1]
    # What the training state does to it.
    return seen, Position.from_dict(json.loads(json.dumps(asdict(position))))


def test_batches_are_padded_waveforms_and_tokens(tone_manifest: Path) -> None:
    utterances, left_out = load_utterances([str(tone_manifest)], DATA)
    assert left_out == {}
    dataset = SpeechDataset(utterances, TOKENIZER, 16000)
    (batch,) = make_loader(dataset, [[3, 0, ~7]], num_workers=0, pin=False)
    for row, index in enumerate((3, 0, 7)):
        samples, count = batch.num_samples[row].item(), batch.token_lengths[row].item()
        assert samples == round(utterances[index].duration * 16000)
        assert not batch.waveform[row, samples:].any()
        assert TOKENIZER.decode(batch.tokens[row, :count].tolist()) == utterances[index].text
    assert batch.indices == (3, 0, 7) and batch.counts.tolist() == [True, True, False]
    assert batch.to(torch.device("meta")).counts.is_meta


def test_workers_change_nothing(tone_manifest: Path) -> None:
    utterances, _ = load_utterances([str(tone_manifest)], DATA)
    dataset = SpeechDataset(utterances, TOKENIZER, 16000)
    batches = DurationBatches(utterances.durations, 5, 8, seed=0).epoch(0)
    alone = list(make_loader(dataset, batches, num_workers=0, pin=False))
    helped = list(make_loader(dataset, batches, num_workers=2, pin=False))
    assert len(alone) == len(helped) == len(batches)
    for one, other in zip(alone, helped, strict=True):
        assert one.indices == other.indices and torch.equal(one.waveform, other.waveform)


def test_a_damaged_cache_is_made_anew(tone_manifest: Path, tmp_path: Path) -> None:
    utterances = read_manifest(tone_manifest)
    dataset = SpeechDataset(utterances, CharTokenizer("abcd"), 16000, str(tmp_path / "cache"))
    first = dataset.waveform(0)
    (cached,) = (tmp_path / "cache").rglob("*.npy")
    for content in (b"", cached.read_bytes()[:-100], b"nonsense"):
        cached.write_bytes(content)
        assert torch.equal(dataset.waveform(0), first)
    assert len(list((tmp_path / "cache").rglob("*"))) == 2  # a folder and the file


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
    (source,) = open_all(tmp_path / "m.jsonl")
    assert source.messages[0] == "training on 1 utterances, 0.00 h"
    assert "left out: 1 utterances longer than 20 s" in source.messages


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.jsonl", [Utterance("x.wav", 1.0, "zzz")])
    with pytest.raises(ValueError, match="found no usable utterance"):
        load_utterances([str(tmp_path / "m.jsonl")], DATA)
    with pytest.raises(ValueError, match="found no manifest"):
        load_utterances([], DATA)
    with pytest.raises(ValueError, match="dev.tar: found a shard, wanted a manifest"):
        load_utterances(["dev.tar"], DATA)
    with pytest.raises(ValueError, match="found the manifest m.jsonl beside the shards s.tar, "):
        open_source(["m.jsonl", "s.tar"], DATA, TOKENIZER, 16000, 1)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_make_the_updates_of_one_with_larger_batches(
    tone_manifest: Path, world: int
) -> None:
    larger = replace(DATA, batch_seconds=3.0 * world, max_batch_size=4 * world)
    (one,) = open_all(tone_manifest, config=larger)
    several = open_all(tone_manifest, world)
    steps = 3 * (one.num_batches or 0)  # three epochs
    assert several[0].num_batches == one.num_batches
    alone, _ = take([one], Position(), steps)
    together, position = take(several, Position(), steps)
    assert together == alone and position.epoch >= 2


def test_processes_get_utterances_of_like_length(tone_manifest: Path) -> None:
    streams = [source.batches(Position(1)) for source in open_all(tone_manifest, 2)]
    for one, other in islice(zip(*streams, strict=True), 10):
        lengths = [float(batch.num_samples.float().mean()) for batch, _ in (one, other)]
        assert max(lengths) < 1.5 * min(lengths)


def test_a_process_without_an_utterance_has_one_that_does_not_count(
    tmp_path: Path, tone_manifest: Path
) -> None:
    write_manifest(tmp_path / "m.jsonl", read_manifest(tone_manifest)[:2])
    streams = [source.batches(Position()) for source in open_all(tmp_path / "m.jsonl", 3)]
    batches = [next(stream)[0] for stream in streams]
    assert [batch.counts.tolist() for batch in batches] == [[True], [True], [False]]
    assert batches[2].indices[0] in (0, 1) and batches[2].num_samples[0] > 1000


@pytest.mark.parametrize("worlds", [(1, 2, 3), (3, 1, 1), (2, 2, 1)])
def test_resuming_with_other_processes_sees_each_utterance_once(
    tone_manifest: Path, worlds: tuple[int, ...]
) -> None:
    position, seen = Position(), []
    sizes = (replace(DATA, batch_seconds=2.0), DATA, replace(DATA, max_batch_size=3))
    for world, config in zip(worlds, sizes, strict=True):  # two steps of each
        steps, position = take(open_all(tone_manifest, world, config), position, 2)
        seen += [index for step in steps for index in step]
        assert position.epoch == 0
    (source,) = open_all(tone_manifest)
    for batch, behind in source.batches(position):
        seen += counted([batch])
        if behind.epoch:
            break
    assert sorted(seen) == list(range(40))
    assert behind == Position(1)


@pytest.mark.parametrize("stop_at", [0, 1, 5, 30])
def test_resumed_equals_uninterrupted(tone_manifest: Path, stop_at: int) -> None:
    (source,) = open_all(tone_manifest)
    whole, _ = take([source], Position(), 40)
    before, position = take([source], Position(), stop_at)
    after, _ = take(open_all(tone_manifest), position, 40 - stop_at)
    assert before + after == whole


def test_other_data_start_the_epoch_anew(tone_manifest: Path, tmp_path: Path) -> None:
    _, position = take(open_all(tone_manifest), Position(2), 2)
    write_manifest(tmp_path / "m.jsonl", read_manifest(tone_manifest)[:30])
    for changed in (open_all(tmp_path / "m.jsonl"), open_all(tone_manifest, seed=2)):
        resumed, _ = take(changed, position, 3)
        assert "epoch 2 starts anew" in changed[0].messages[-1]
        assert resumed == take(changed, Position(2), 3)[0]


def broken_manifest(tone_manifest: Path, folder: Path, good: int) -> Path:
    """Return a manifest of some good utterances and two that cannot be read."""
    utterances = read_manifest(tone_manifest)[:good]
    broken = folder / "broken.wav"
    broken.write_bytes(b"RIFF")
    template = read_manifest(tone_manifest)[0]
    for path in (broken, folder / "missing.wav"):
        utterances.append(replace(template, audio_filepath=str(path)))
    write_manifest(folder / "m.jsonl", utterances)
    return folder / "m.jsonl"


def test_unreadable_files_are_left_out_and_named(tone_manifest: Path, tmp_path: Path) -> None:
    utterances = read_manifest(broken_manifest(tone_manifest, tmp_path, 3))
    for cache in ("", str(tmp_path / "cache")):
        dataset = SpeechDataset(utterances, TOKENIZER, 16000, cache)
        batch = dataset[[3, 1, 4, 2]]
        assert batch.indices == (1, 2) and len(batch.waveform) == len(batch.tokens) == 2
        assert batch.counts.all() and len(batch.problems) == 2
        assert "broken.wav" in batch.problems[0] and "missing.wav" in batch.problems[1]
        silent = dataset[[4]]
        assert silent.counts.tolist() == [False] and silent.indices == (-1,)
        assert silent.token_lengths.tolist() == [1] and not silent.waveform.any()
        assert "missing.wav" in silent.problems[0]


def test_statistics_do_without_unreadable_files(tone_manifest: Path, tmp_path: Path) -> None:
    (source,) = open_all(broken_manifest(tone_manifest, tmp_path, 3))
    assert len(source.waveforms(100)) == 3
    (source,) = open_all(broken_manifest(tone_manifest, tmp_path, 0))
    with pytest.raises(ValueError, match="found no readable audio .*missing.wav"):
        source.waveforms(100)


def test_a_run_ends_when_nothing_can_be_read_any_more(tone_manifest: Path, tmp_path: Path) -> None:
    (source,) = open_all(broken_manifest(tone_manifest, tmp_path, 0))
    seen = 0
    with pytest.raises(ValueError, match="nothing readable in 100 updates on end.*wav"):
        for _ in source.batches(Position()):
            seen += 1
    assert seen == 99
