"""Packing: shards that plain tar reads, whole or not at all, and never over something else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.manifest import read_manifest, write_manifest
from asr.shards import main


def pack(manifest: Path, folder: Path, *more: str) -> int:
    return main(["pack", str(manifest), "--output", str(folder), *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_plain_tar_reads_what_was_packed(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack(tone_manifest, tmp_path / "s", "--utterances-per-shard", "15") == 0
    out = capsys.readouterr().out
    assert "tones-000000.tar: 15 utterances, 0.00 h" in out
    assert "s: 3 shards, 40 utterances, 0.01 h, " in out
    assert f"train_manifests='{tmp_path}/s/tones-{{000000..000002}}.tar'" in out
    (tmp_path / "x").mkdir()
    for shard in sorted((tmp_path / "s").glob("*.tar")):
        subprocess.run(["tar", "xf", shard, "-C", tmp_path / "x"], check=True)
    utterances = {u.id: u for u in read_manifest(tone_manifest)}
    found = []
    for path in (tmp_path / "x").glob("*.json"):
        values = json.loads(path.read_text())
        utterance = utterances[values["id"]]
        samples, rate = soundfile.read(path.with_suffix(".flac"), dtype="int16")
        expected, _ = soundfile.read(utterance.audio_filepath, dtype="int16")
        assert rate == 16000 and np.abs(samples - expected).max() <= 1
        assert values["text"] == utterance.text and values["speaker"] == "tones"
        assert values["duration"] == pytest.approx(len(samples) / 16000)
        found.append(utterance.id)
    assert sorted(found) == sorted(utterances)
    index = json.loads((tmp_path / "s" / "shards.json").read_text())
    assert index["utterances"] == 40
    assert [s["utterances"] for s in index["shards"]] == [15, 15, 10]


def test_order_is_shuffled_and_the_same_command_gives_the_same_bytes(
    tone_manifest: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert pack(tone_manifest, tmp_path / name, "--shuffle-seed", seed) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_copy_keeps_the_original_bytes(tone_manifest: Path, tmp_path: Path) -> None:
    assert pack(tone_manifest, tmp_path, "--format", "copy", "--shard-mb", "0.3") == 0
    originals = {Path(u.audio_filepath).read_bytes() for u in read_manifest(tone_manifest)}
    packed = []
    shards = sorted(tmp_path.glob("*.tar"))
    for shard in shards:
        assert shard.stat().st_size < 0.4e6
        with tarfile.open(shard) as tar:
            files = [tar.extractfile(m).read() for m in tar if m.name.endswith(".wav")]  # type: ignore[union-attr]
        packed += files
    assert len(shards) > 2 and len(packed) == 40 and set(packed) == originals


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_stopped_packing_goes_on_where_it_was(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, kept: int,
) -> None:  # fmt: skip
    size = ("--utterances-per-shard", "15")
    assert pack(tone_manifest, tmp_path / "whole", *size) == 0

    def stop(name: str) -> None:
        if f"00000{kept}.tar" in name:
            raise KeyboardInterrupt

    replace_ = os.replace
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda a, b: (stop(str(b)), replace_(a, b)))
        with pytest.raises(KeyboardInterrupt):
            pack(tone_manifest, tmp_path / "parts", *size)
    assert len(list((tmp_path / "parts").glob("*.tar"))) == kept
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("*.tar")}
    capsys.readouterr()
    assert pack(tone_manifest, tmp_path / "parts", *size) == 0
    assert (f"kept {kept} shards" in capsys.readouterr().out) == bool(kept)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    for name, time in times.items():
        assert (tmp_path / "parts" / name).stat().st_mtime_ns == time


def test_a_lost_shard_is_packed_again(tone_manifest: Path, tmp_path: Path) -> None:
    size = ("--utterances-per-shard", "10")
    assert pack(tone_manifest, tmp_path, *size) == 0
    before = contents(tmp_path)
    (tmp_path / "tones-000001.tar").unlink()
    assert pack(tone_manifest, tmp_path, *size) == 0
    assert contents(tmp_path) == before


def test_nothing_else_is_overwritten(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.tar").write_bytes(b"mine")
    assert pack(tone_manifest, tmp_path) == 2
    assert "other.tar: was not packed by this command" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["other.tar"]
    (tmp_path / "other.tar").unlink()
    assert pack(tone_manifest, tmp_path) == 0
    before = contents(tmp_path)
    assert pack(tone_manifest, tmp_path, "--shuffle-seed", "5") == 2
    assert "holds shards of another corpus or with other settings" in capsys.readouterr().err
    assert contents(tmp_path) == before
    (tmp_path / "shards.json").write_text("[]")
    assert pack(tone_manifest, tmp_path) == 2
    assert "shards.json: found no list of shards" in capsys.readouterr().err


def test_unreadable_audio_is_named_and_left_out(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = read_manifest(tone_manifest)[:3]
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    bad = [replace(good[0], audio_filepath=str(tmp_path / n)) for n in ("broken.wav", "no.wav")]
    write_manifest(tmp_path / "m.jsonl", good + bad)
    assert pack(tmp_path / "m.jsonl", tmp_path / "s") == 0
    done = capsys.readouterr()
    assert "s: 1 shards, 3 utterances" in done.out and "2 left out" in done.out
    assert "left out: " in done.err and "broken.wav" in done.err and "no.wav" in done.err
    write_manifest(tmp_path / "bad.jsonl", bad)
    assert pack(tmp_path / "bad.jsonl", tmp_path / "t") == 2
    assert "bad.jsonl: found no readable audio" in capsys.readouterr().err


def test_names_that_tar_does_not_know_are_changed(tone_manifest: Path, tmp_path: Path) -> None:
    first = read_manifest(tone_manifest)[0]
    items = [replace(first, id=name) for name in ("a.b/c", "Ωmega " * 40, "..")]
    write_manifest(tmp_path / "m.jsonl", items)
    assert pack(tmp_path / "m.jsonl", tmp_path / "s") == 0
    with tarfile.open(tmp_path / "s" / "m-000000.tar") as tar:
        names = tar.getnames()
        ids = [json.load(io.BytesIO(tar.extractfile(n).read()))["id"]  # type: ignore[union-attr]
               for n in names if n.endswith(".json")]  # fmt: skip
    assert len(set(names)) == 6 and all(n.count(".") == 1 and len(n) < 100 for n in names)
    assert sorted(ids) == sorted(u.id for u in items)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl: cannot be read (No such file or directory)"),
        (["{m}", "--utterances-per-shard", "0"], "--utterances-per-shard: found 0, wanted"),
        (["{m}", "--shard-mb", "-1"], "--shard-mb: found -1.0, wanted"),
    ],
)
def test_user_errors_are_one_line(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    given = [a.format(m=tone_manifest) for a in arguments]
    assert main(["pack", *given, "--output", str(tmp_path / "s")]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1 and not (tmp_path / "s").exists()
