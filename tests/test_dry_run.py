"""A dry run says what a run would do, and leaves nothing behind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile
import torch
from conftest import make_tone_manifest
from test_train import write_toml

from asr import dry_run as module
from asr.config import Config
from asr.dry_run import dry_run, measure_pace
from asr.manifest import read_manifest, write_manifest
from asr.order import DurationBatches
from asr.train import Trainer, main

Configure = Callable[..., Config]


def everything_under(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_it_says_what_a_run_takes_and_writes_nothing(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(max_steps=20, ctc_only_steps=5)
    config = replace(config, data=replace(config.data, dev_manifests=()))
    path = write_toml(config, tmp_path / "config.toml")
    before = everything_under(tmp_path)
    assert main([str(path), "--dry-run", "train.log_every=3"]) == 0  # settings in any place
    assert everything_under(tmp_path) == before
    output = capsys.readouterr().out
    trainer = Trainer(config, torch.device("cpu"))
    utterances = read_manifest(config.data.train_manifests[0])
    hours = sum(utterance.duration for utterance in utterances) / 3600
    updates = trainer.source.num_batches
    size = sum(p.numel() for p in trainer.model.parameters())
    for text in (
        f"training: 40 of 40 utterances, {hours:.2f} of {hours:.2f} h",
        f"{updates} updates an epoch, {20 / updates:.1f} epochs in 20 steps",
        "CTC alone: 5 steps", "with decoder: 15 steps", "all 20 steps:",
        "there and back the same", "(computed)", "(measured)", "harm training: none",
    ):  # fmt: skip
        assert text in output
    *parts, whole = (int(n.replace(",", "")) for n in re.findall(r"([\d,]+) parameters", output))
    assert sum(parts) == whole == size


def test_what_harms_training_gives_1(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_manifest(make_tone_manifest(tmp_path / "tones", 20))
    # Too long for the limit is what the limit is for; a wrong duration is not.
    utterances[3] = replace(utterances[3], duration=100.0)
    soundfile.write(utterances[3].audio_filepath, torch.randn(1_600_000).numpy() / 10, 16000)
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    write_manifest(train, utterances[:10])
    write_manifest(dev, utterances[10:])
    config = configure(max_steps=2)
    config = replace(
        config, data=replace(config.data, train_manifests=(str(train),), dev_manifests=(str(dev),))
    )
    assert dry_run(config, Trainer) == 0
    output = capsys.readouterr().out
    assert "9 of 10 utterances" in output and "skipped: longer than 20 s: 1" in output
    write_manifest(train, [*utterances[:9], replace(utterances[9], duration=19.0)])
    assert dry_run(config, Trainer) == 1
    output = capsys.readouterr().out
    assert "wrong duration: 1" in output and "harm training: 1" in output


def test_audio_that_cannot_be_read_gives_1(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    utterances = read_manifest(make_tone_manifest(tmp_path / "tones", 4))
    Path(utterances[0].audio_filepath).write_bytes(b"no audio")
    write_manifest(tmp_path / "train.jsonl", utterances)
    config = configure()
    config = replace(
        config,
        data=replace(
            config.data, train_manifests=(str(tmp_path / "train.jsonl"),), dev_manifests=()
        ),
    )
    assert dry_run(config, Trainer) == 1
    output = capsys.readouterr().out
    assert "audio that cannot be read: 1" in output and "no best model" in output


def test_one_problem_in_a_hundred_utterances_is_tolerated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = {"wrong duration": ["a"], "skipped: empty text": ["b"], "the same id twice": ["c"]}
    assert module._print_found(problems, 100) == 0
    assert module._print_found(problems, 99) == 2
    monkeypatch.setattr(module, "MAX_FILES", 50)  # of which one is more than it seems
    assert module._print_found(problems, 100) == 1
    assert capsys.readouterr().out.count("wrong duration: 1") == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_manifests=none.jsonl", "none.jsonl: cannot be read"),
        ("resume=true", "no training state to resume"),
        ("data.train_manifests=[]", "found no manifest"),
        ("data.train_manifests=a-{0..3}.tar", "found shards, wanted the manifests"),
    ],
)
def test_user_errors_are_one_line(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    override: str, message: str,
) -> None:  # fmt: skip
    path = write_toml(configure(), tmp_path / "config.toml")
    assert main([str(path), override, "--dry-run"]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.strip().splitlines()) == 1


def test_several_processes_are_refused(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="found several processes, wanted one"):
        dry_run(configure(), Trainer)


def test_the_pace_is_that_of_the_steps(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that take a known time for a second of audio, on batches of all durations."""
    monkeypatch.setattr(module, "MEASURING_SECONDS", 0.5)

    class Batch:
        def __init__(self, indices: list[int]) -> None:
            self.indices = indices

        def to(self, device: torch.device) -> Batch:
            return self

    class Data:
        def __getitem__(self, indices: list[int]) -> Batch:
            return Batch(indices)

    durations = [1.0 + i / 10 for i in range(100)]
    steps = []

    def advance(batches: Any) -> None:
        batch, _ = next(batches)
        steps.append(batch.indices)
        time.sleep(0.002 * len(batch.indices) * durations[max(batch.indices)])

    order = DurationBatches(durations, 20.0, 64, seed=0)
    run: Any = SimpleNamespace(
        source=SimpleNamespace(dataset=Data(), order=order),
        device=torch.device("cpu"),
        advance=advance,
        messages=[],
    )
    pace = measure_pace(run, order.epoch(0), configure())
    assert 3 <= len(pace.seconds) <= 9
    assert pace.seconds_per_audio_second == pytest.approx(0.002, rel=0.3)
    longest = [durations[max(indices)] for indices in steps[-len(pace.seconds) :]]
    assert longest == sorted(longest) and longest[0] < 4 and longest[-1] > 9
