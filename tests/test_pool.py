"""Shards: every utterance once an epoch, in an order that can be taken up, whatever is broken."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.archive import Sample, expand_shards, is_shard, read_samples
from asr.batch import Batch, Position
from asr.config import DataConfig
from asr.dataset import open_source
from asr.manifest import read_manifest
from asr.pool import Encoded, ShardSource, read_shard
from asr.shards import main as pack
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer("abcd")
DATA = DataConfig(alphabet="abcd", batch_seconds=3.0, max_batch_size=4, shuffle_pool=10)


@pytest.fixture(scope="module")
def shards(tone_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the 40 tone words in six shards."""
    folder = tmp_path_factory.mktemp("shards")
    arguments = ["pack", str(tone_manifest), "--output", str(folder), "--utterances-per-shard", "7"]
    assert pack(arguments) == 0
    return folder


def open_shards(
    pattern: str | Path, config: DataConfig = DATA, rank: int = 0, world: int = 1
) -> ShardSource:
    source = open_source([str(pattern)], config, TOKENIZER, 16000, 1, rank, world)
    assert isinstance(source, ShardSource)
    return source


def take(source: ShardSource, position: Position, steps: int) -> tuple[list[Batch], Position]:
    """Make steps; return the batches, and the position as the training state gives it back."""
    batches = []
    stream = source.batches(position)
    for _ in range(steps):
        batch, position = next(stream)
        batches.append(batch)
    return batches, Position.from_dict(json.loads(json.dumps(asdict(position))))


def one_epoch(source: ShardSource, epoch: int = 0) -> list[Batch]:
    batches = []
    for batch, position in source.batches(Position(epoch)):
        batches.append(batch)
        if position.epoch > epoch:
            assert position == Position(epoch + 1)
            return batches
    raise AssertionError


def sounds(batches: list[Batch]) -> Counter[tuple[str, float]]:
    """Return what was heard: texts, and the loudness of each, which tells them apart."""
    heard: Counter[tuple[str, float]] = Counter()
    for batch in batches:
        for row in batch.counts.nonzero()[:, 0].tolist():
            text = TOKENIZER.decode(batch.tokens[row].tolist())
            heard[text, round(float(batch.waveform[row].double().square().sum()), 6)] += 1
    return heard


def write_shard(path: Path, samples: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def members(shards: Path, number: int = 0) -> dict[str, bytes]:
    with tarfile.open(shards / f"tones-{number:06d}.tar") as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def test_an_epoch_has_every_utterance_once_and_as_the_manifest_has_it(
    shards: Path, tone_manifest: Path
) -> None:
    source = open_shards(shards / "tones-{000000..000005}.tar")
    manifest = open_source([str(tone_manifest)], DATA, TOKENIZER, 16000, 1)
    expected = []
    for batch, position in manifest.batches(Position()):
        expected.append(batch)
        if position.epoch:
            break
    orders = []
    for epoch in (0, 1):
        batches = one_epoch(source, epoch)
        assert sounds(batches) == sounds(expected)
        for batch in batches:
            padded = batch.waveform.numel() / 16000
            assert len(batch.counts) <= 4 and (padded <= 3 or len(batch.counts) == 1)
        orders.append([batch.num_samples.tolist() for batch in batches])
    assert orders[0] != orders[1]
    assert source.num_batches is None
    assert source.epoch_hours == pytest.approx(manifest.epoch_hours, rel=1e-3)
    assert source.messages == [f"training on 6 shards, {source.epoch_hours:.2f} h"]


@pytest.mark.parametrize("pattern", ["*.tar", "pipe:cat {folder}/tones-{{000000..000005}}.tar"])
def test_patterns_and_pipes_are_read_alike(shards: Path, pattern: str) -> None:
    name = pattern.format(folder=shards) if "pipe" in pattern else shards / pattern
    plain = open_shards(shards / "tones-{000000..000005}.tar")
    other = open_shards(name)
    assert len(other.shards) == 6
    assert sounds(one_epoch(other)) == sounds(one_epoch(plain))


def test_names() -> None:
    assert [is_shard(n) for n in ("a.tar", "a.jsonl", "pipe:cat a", "https://x/a")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert expand_shards(["a-{08..10}.tar", "pipe:awk '{print}' b"]) == [
        "a-08.tar", "a-09.tar", "a-10.tar", "pipe:awk '{print}' b",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="unbalanced braces"):
        expand_shards(["a-{08..10.tar"])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    with pytest.raises(ValueError, match="WebDataset is not installed.*extra 'train'"):
        expand_shards(["a.tar"])


@pytest.mark.parametrize("stop_at", [0, 1, 6, 20])
def test_resumed_equals_uninterrupted(shards: Path, stop_at: int) -> None:
    whole, _ = take(open_shards(shards / "*.tar"), Position(), 30)
    before, position = take(open_shards(shards / "*.tar"), Position(), stop_at)
    after, _ = take(open_shards(shards / "*.tar"), position, 30 - stop_at)
    for one, other in zip(whole, before + after, strict=True):
        assert one.indices == other.indices and torch.equal(one.waveform, other.waveform)


def test_a_process_beside_changes_nothing(shards: Path) -> None:
    alone = one_epoch(open_shards(shards / "*.tar"))
    helped = one_epoch(open_shards(shards / "*.tar", replace(DATA, num_workers=4)))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.waveform, other.waveform)


def test_other_settings_start_the_epoch_anew(shards: Path) -> None:
    _, position = take(open_shards(shards / "*.tar"), Position(1), 3)
    source = open_shards(shards / "*.tar", replace(DATA, batch_seconds=4.0))
    source.batches(position)
    assert "epoch 1 starts anew" in source.messages[-1]


@pytest.mark.parametrize(("pattern", "world"), [("*.tar", 2), ("tones-00000[01].tar", 3)])
def test_processes_share_the_shards_and_end_epochs_together(
    shards: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, world: int
) -> None:
    barrier, flags = threading.Barrier(world, timeout=20), [False] * world
    local = threading.local()

    def gather(flag: bool) -> list[bool]:
        flags[local.rank] = flag
        barrier.wait()
        everyone = flags.copy()
        barrier.wait()
        return everyone

    monkeypatch.setattr("asr.distributed.gather", gather)
    results: list[Any] = [None] * world

    def run(rank: int) -> None:
        local.rank = rank
        heard, epochs = [], []
        source = open_shards(shards / pattern, rank=rank, world=world)
        for batch, position in source.batches(Position()):
            heard.append(batch)
            epochs.append(position.epoch)
            if position.epoch == 2:
                break
        results[rank] = (epochs, sounds(heard[: epochs.index(1)]))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(epochs == results[0][0] for epochs, _ in results)
    parts = [set(heard) for _, heard in results]
    monkeypatch.undo()
    everything = set(sounds(one_epoch(open_shards(shards / pattern))))
    assert set.union(*parts) == everything
    assert sum(len(part) for part in parts) == len(everything)  # nobody reads another's


def problems_of(path: Path) -> tuple[list[Encoded], list[str]]:
    found = list(read_shard(str(path), DATA))
    good = [item for item in found if isinstance(item, Encoded)]
    return good, [item for item in found if isinstance(item, str)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("1.json"), "s.tar: 1: found .flac, wanted .json and one of flac, wav"),
        (lambda m: m.pop("1.flac"), "s.tar: 1: found .json, wanted .json and one of flac, wav"),
        (lambda m: m.update({"1.json": b"{"}), "s.tar: 1.json: is not JSON"),
        (lambda m: m.update({"1.json": b"{}"}), "s.tar: 1.json: found no"),
    ],
)
def test_broken_samples_are_named_and_left_out(
    shards: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    parts = list(members(shards).items())
    samples = {f"{i // 2}.{n.split('.')[1]}": c for i, (n, c) in enumerate(parts)}
    change(samples)
    good, problems = problems_of(write_shard(tmp_path / "s.tar", samples))
    assert len(good) == 6 and len(problems) == 1
    assert message in problems[0] and "\n" not in problems[0]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_what_stands_before_a_cut_is_read(shards: Path, tmp_path: Path, part: float) -> None:
    content = (shards / "tones-000000.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    whole, _ = problems_of(shards / "tones-000000.tar")
    end = content.rstrip(b"\0")
    cut.write_bytes(content[: int(part * len(end))])
    good, problems = problems_of(cut)
    assert len(problems) == 1 and problems[0].startswith(f"{cut}: truncated")
    assert [g.sound for g in good] == [w.sound for w in whole[: len(good)]]
    assert len(good) >= int(part * len(whole)) - 1


def test_a_cut_between_members_is_noticed(shards: Path, tmp_path: Path) -> None:
    content = (shards / "tones-000000.tar").read_bytes()
    with tarfile.open(shards / "tones-000000.tar") as tar:
        place = tar.getmembers()[4].offset
    (tmp_path / "cut.tar").write_bytes(content[:place])
    good, problems = problems_of(tmp_path / "cut.tar")
    assert len(good) == 2 and "ends without the end mark of a tar file" in problems[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.tar", "no.tar: cannot be read (No such file or directory)"),
        ("pipe:cat no.tar 2>&-", "pipe:cat no.tar 2>&-: truncated or damaged ("),
        ("s4x://no.tar", "s4x://no.tar: cannot be read (s4x://no.tar: no gopen handler defined)"),
    ],
)
def test_shards_that_are_not_there_are_named(name: str, message: str) -> None:
    (problem,) = read_samples(name)
    assert isinstance(problem, str) and problem.startswith(message) and "\n" not in problem


def test_a_command_that_fails_at_its_end_is_named(shards: Path) -> None:
    *samples, problem = read_samples(f"pipe:cat {shards}/tones-000000.tar; exit 3")
    assert len(samples) <= 7 and isinstance(problem, str) and "exit 3" in problem


@pytest.mark.skipif(shutil.which("curl") is None, reason="URLs are read by curl")
def test_shards_come_from_a_web_server(shards: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/tones-000000.tar"
        assert list(read_samples(url)) == list(read_samples(str(shards / "tones-000000.tar")))
        (problem,) = read_samples(url.replace("0.tar", "9.tar"))
        assert isinstance(problem, str) and "tones-000009.tar: truncated" in problem
        server.shutdown()


def test_foreign_members_are_no_samples(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.tar", {"a/b.txt": b"1", "a/b.json": b"2", "README": b""})
    assert list(read_samples(str(path))) == [Sample("a/b", {"txt": b"1", "json": b"2"})]


def test_a_run_survives_what_is_broken(shards: Path, tmp_path: Path) -> None:
    for number in range(4):
        samples = members(shards, number)
        if number == 0:
            samples[next(n for n in samples if n.endswith(".flac"))] = b"no sound"
        write_shard(tmp_path / f"{number}.tar", samples)
    cut = (tmp_path / "1.tar").read_bytes()[:3000]
    (tmp_path / "1.tar").write_bytes(cut)
    source = open_shards(tmp_path / "{0..4}.tar")
    assert source.messages[1] == f"left out: {tmp_path}/4.tar: no such file"
    batches = one_epoch(source)
    problems = "\n".join(p for batch in batches for p in batch.problems)
    assert f"{tmp_path}/0.tar/" in problems and "is in no known sound format" in problems
    assert "/proc/" not in problems
    assert "1.tar: truncated" in problems and "4.tar: cannot be read" in problems
    assert 20 <= sounds(batches).total() <= 27


def test_what_is_left_out_is_told_at_the_end_of_an_epoch(shards: Path) -> None:
    batches = one_epoch(open_shards(shards / "*.tar", replace(DATA, max_seconds=0.7)))
    problems = [p for batch in batches for p in batch.problems]
    count = 40 - sounds(batches).total()
    assert problems == [f"{count} utterances longer than 0.7 s, of this epoch's shards"]


def test_statistics_come_from_all_over_the_shards(shards: Path, tone_manifest: Path) -> None:
    source = open_shards(shards / "*.tar")
    assert len(source.waveforms(6)) == 6 and len(source.waveforms(200)) == 40
    firsts = [len(wave) for wave in source.waveforms(6)]
    assert len(source.texts(6)) == 6 and len(source.texts(200)) == 40
    by_shard = []
    for name in source.shards:
        first = next(iter(read_shard(name, DATA)))
        assert isinstance(first, Encoded)
        by_shard.append(len(first.waveform(16000)))
    assert firsts == by_shard
    assert len(read_manifest(tone_manifest)) == 40


def test_nothing_usable_is_an_error(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0.tar: no such file, wanted a tar shard"):
        open_shards(tmp_path / "{0..3}.tar")
    (tmp_path / "0.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="found no usable utterance .*0.tar: truncated"):
        open_shards(tmp_path / "0.tar").waveforms(10)
    with pytest.raises(ValueError, match="found no usable text"):
        open_shards(tmp_path / "0.tar").texts(10)
    with pytest.raises(ValueError, match="found nothing readable in 100 updates on end"):
        for _ in open_shards(tmp_path / "0.tar").batches(Position()):
            pass
    with pytest.raises(ValueError, match="found no usable utterance .*longer than 0.1 s"):
        open_shards(shards / "*.tar", replace(DATA, max_seconds=0.1, min_seconds=0)).waveforms(10)
