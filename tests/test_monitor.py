"""What a run shows: lines, a bar on a terminal, a log, and curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from asr.monitor import Monitor
from asr.plot import Curve, plot_curves


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


def test_transcripts_and_pictures_reach_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    monitor = Monitor(tmp_path, total_steps=10, first_step=0, enabled=True)
    monitor.report("dev", 3, {"examples_ctc": [["u1", "a cat", "a hat"]], "wer_ctc": 0.5})
    figure = plot_curves([Curve("a", [1, 2], [3.0, 4.0])], "title", "unit")
    monitor.show(3, {"curve": figure})
    monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"dev/examples_ctc/text_summary", "custom_scalars__config__"} <= set(
        events.Tags()["tensors"]
    )
    (text,) = events.Tensors("dev/examples_ctc/text_summary")
    assert b"a **cat** | a **hat**" in text.tensor_proto.string_val[0]
    (image,) = events.Images("pictures/curve")
    assert image.step == 3 and image.width > 500
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["curve.png"]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("torch.utils.tensorboard", "no TensorBoard curves: tensorboard is not installed (extra"),
        ("matplotlib", "no pictures: matplotlib is not installed (extra 'train')"),
    ],
)
def test_without_an_extra_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    module: str, line: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    monitor = Monitor(tmp_path, total_steps=10, first_step=0, enabled=True)
    for step in (1, 2):
        monitor.report("dev", step, {"examples_ctc": [["u1", "a cat", "a hat"]], "wer_ctc": 0.5})
    monitor.close()
    assert capsys.readouterr().err.count(line) == 1


def test_a_record_is_logged_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "st', encoding="utf-8")  # killed here
    monitor = Monitor(tmp_path, total_steps=10, first_step=7, enabled=True)
    monitor.record("start", 7, {"processes": 1})
    monitor.close()
    assert capsys.readouterr().err == ""
    _, line = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert (record["kind"], record["step"], record["processes"]) == ("start", 7, 1)


def test_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path, total_steps=10, first_step=0, enabled=False)
    monitor.report("train", 1, {"loss": 1.0})
    monitor.message("hello")
    monitor.close()
    assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())
