"""What a run shows: lines, a bar on a terminal, a log, and curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr.monitor import Monitor


def test_lines_and_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, total_steps=100, first_step=40, enabled=True)
    monitor.report("train", 50, {"loss": 1.25, "note": "not a number"})
    monitor.message("hello")
    monitor.close()
    errors = capsys.readouterr().err
    assert "train step 50/100 loss=1.25" in errors and "left=" in errors and "hello" in errors
    (record,) = map(json.loads, (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    assert record["step"] == 50 and record["note"] == "not a number"


def test_a_terminal_gets_a_bar_with_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monitor = Monitor(tmp_path, total_steps=100, first_step=0, enabled=True)
    for step in (10, 50):
        monitor.report("train", step, {"loss": 1.25})
    monitor.close()
    errors = capsys.readouterr().err
    assert "50/100" in errors and "loss=1.25" in errors and "0:00:0" in errors


def test_curves_reach_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    monitor = Monitor(tmp_path, total_steps=10, first_step=0, enabled=True)
    for step in (1, 2, 3):
        monitor.report("train", step, {"loss": 1.0 / step})
    monitor.report("dev", 3, {"wer": 0.5})
    monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3]
    assert events.Scalars("dev/wer")[0].value == pytest.approx(0.5)


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, total_steps=10, first_step=0, enabled=False)
    monitor.report("train", 1, {"loss": 1.0})
    monitor.message("hello")
    monitor.close()
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())
