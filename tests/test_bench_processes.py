"""`scripts/bench_processes.py`: speeds are read from real runs, and failures have a reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import bench_processes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(
        "[model]\nconv_channels = [4, 4]\nencoder_layers = 1\nencoder_width = 8\n"
        'attention_width = 8\ndecoder_width = 8\n[data]\nalphabet = "abcd"\n',
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
def test_all_ways_are_timed_in_turns(
    config: Path, tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "out" / "processes.json"
    arguments = f"--config {config} --manifest {tone_manifest} --cores 2 --rounds 1 --steps 10"
    code = bench_processes.main([*arguments.split(), "--batch-seconds", "4", "--json", str(kept)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    rows = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    assert [row["name"] for row in rows] == [
        "1 process, 2 threads",
        "2 processes, 1 thread",
        "2 processes, 1 thread, updates as large",
    ]
    assert all(row["rate"] > 0 and len(row["all"]) == 1 for row in rows)
    assert f"| 2 processes, 1 thread | {rows[1]['rate']:.1f} |" in printed.out


def test_a_failed_training_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--config {config} --manifest nowhere.jsonl --steps 10 --cores 2"
    assert bench_processes.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench_processes: training of '1 process, 2 threads' failed with 2: ")
    assert "nowhere.jsonl: cannot be read" in error and error.count("\n") == 1
