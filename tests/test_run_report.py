"""The report of a run: what was logged, without what was done again."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asr.config import Config, config_to_dict, load_config
from asr.run_report import main, read_log, settings_to_toml, write_run_report
from asr.train import train


def record(kind: str, step: int, time: float, **values: Any) -> str:
    return json.dumps({"kind": kind, "step": step, "time": time, **values})


def write_run(folder: Path, lines: list[str], config: Config) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config_to_dict(config)), encoding="utf-8")
    return folder


@pytest.mark.parametrize("with_starts", [True, False])
def test_later_lines_win_after_a_crash(tmp_path: Path, with_starts: bool) -> None:
    """A run that crashes at random places, against one that remembers by step."""
    chance = random.Random(0)
    lines, truth, step, now = [], {}, 0, 0.0
    while step < 300:
        saved = max(0, step - chance.randrange(30))  # the state is older than the log
        truth = {key: value for key, value in truth.items() if key[1] <= saved}
        step = saved
        if with_starts:
            lines.append(record("start", step, now))
        for _ in range(chance.randrange(60)):
            step, now = step + 1, now + 1
            for kind, every in (("train", 5), ("dev", 20)):
                if step % every == 0:
                    lines.append(record(kind, step, now, value=now))
                    truth[kind, step] = now
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    log = read_log(path)
    found = {(r["kind"], r["step"]): r["value"] for r in (*log.train, *log.dev)}
    if with_starts:
        assert found == truth
    else:  # what was logged between state and crash cannot be told from what holds
        assert found.items() >= truth.items()
    assert [r["step"] for r in log.train] == sorted({r["step"] for r in log.train})
    assert log.step == max(step for _, step in found)


def test_pauses_do_not_count_as_time(tmp_path: Path) -> None:
    lines = [
        record("start", 0, 100), record("train", 5, 110), record("dev", 5, 130),
        record("start", 5, 10_000), record("train", 10, 10_015),
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert log.seconds == 30 + 15 and len(log.starts) == 2
    assert log.processor_seconds == 0.0, "logs of old do not tell"


def test_processor_time_is_counted_by_process(tmp_path: Path) -> None:
    clocks = [("start", 0, 3.0), ("train", 5, 4.5), ("start", 5, 2.0), ("train", 10, 6.0)]
    lines = [
        json.dumps({"kind": kind, "step": step, "time": 100.0, "processor": processor})
        for kind, step, processor in clocks
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert read_log(tmp_path / "log.jsonl").processor_seconds == 1.5 + 4.0


def test_lines_cut_off_by_a_crash_are_left_out(tmp_path: Path) -> None:
    whole = record("train", 5, 1.0).encode()
    (tmp_path / "log.jsonl").write_bytes(
        b'{"kind": "train", "step": 4, "text": "\xc3\n' + whole + b"\n3\n[]\n" + whole[:20]
    )
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl").train] == [5]


def test_settings_are_those_that_differ_and_can_be_read_again(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    config = configure(resume=True)
    config = replace(config, data=replace(config.data, alphabet=" 'äöü\"\\"))
    settings = json.loads(json.dumps(config_to_dict(config)))
    text = settings_to_toml(settings)
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    again = load_config(tmp_path / "config.toml")
    assert again == replace(config, train=replace(config.train, resume=False))
    assert "encoder_cell" not in text and "[features]" not in text


def test_a_finished_run_leaves_its_report(configure: Callable[..., Config]) -> None:
    config = configure(max_steps=4, validate_every=2, ctc_only_steps=1)
    assert train(config) == 0
    folder = Path(config.train.output_dir)
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "| state | finished |" in text and "| steps | 4 of 4, 0 updates skipped" in text
    assert re.search(
        r"\| best WER, greedy CTC \| [\d.]+ % \(95 % interval [\d.]+ to [\d.]+\)", text
    )
    assert "| wall time |" in text and "| machine |" in text and "training on 40 utt" in text
    assert "encoder_width = 32" in text and "| utterance | reference | hypothesis |" in text
    assert f"asr.train {folder}/report/config.toml resume=true max_steps=8" in text
    assert f"asr.benchmark {config.data.dev_manifests[0]} --model {folder}/model" in text
    # The command that the report gives does go on.
    settings = load_config(folder / "report/config.toml", ["resume=true", "max_steps=5"])
    assert train(settings) == 0
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "5 of 5" in report and "in 2 sessions" in report
    pictures = re.findall(r"\]\((report/.*?\.png)\)", text)
    if pytest.importorskip("matplotlib", reason="needs matplotlib"):
        names = "wer losses learning_rate gradient_norm audio_hours_per_hour attention-1"
        assert {f"report/{name}.png" for name in names.split()} < set(pictures)
        for picture in pictures:
            assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]


def test_a_run_under_way_and_without_matplotlib(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    lines = [record("train", 2, 1.0, ctc=2.0, total=2.0, attention=0.0)]
    folder = write_run(tmp_path / "run", lines, configure())
    assert main([str(folder)]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(folder / "report.md")
    assert "matplotlib is not installed (extra 'train')" in output.err
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "| state | running or interrupted |" in text and "2 of 6" in text
    assert "matplotlib is not installed (extra 'train')" in text and ".png" not in text


def test_a_run_that_has_logged_nothing_yet(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", [record("start", 0, 1.0)], configure())
    assert "0 of 6" in write_run_report(folder).read_text(encoding="utf-8")


def test_user_errors_are_one_line(
    configure: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", [], configure())
    (folder / "config.json").write_text("[1]", encoding="utf-8")
    for run, message in (
        (tmp_path / "none", "log.jsonl: cannot be read (No such file or directory), wanted"),
        (folder, "config.json: wanted a run's configuration as JSON"),
    ):
        assert main([str(run)]) == 2
        errors = capsys.readouterr().err
        assert message in errors and len(errors.strip().splitlines()) == 1
    assert not (folder / "report.md").exists()
