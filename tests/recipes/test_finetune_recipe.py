"""`recipes/finetune`: its network is that of the model it starts from."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from asr import train
from asr.checkpoint import DEFAULT_MODEL
from asr.config import config_to_dict, load_config
from asr.finetune import DROPOUTS
from asr.manifest import read_manifest

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "finetune"
TINY = REPOSITORY / "data" / "tiny" / "train.jsonl"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"finetune_{name}", RECIPE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pick, report = load("pick"), load("report")


def test_the_network_is_that_of_the_shipped_model() -> None:
    shipped = json.loads((DEFAULT_MODEL / "config.json").read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(config_to_dict(load_config(RECIPE / "config.toml"))))
    for model in (shipped["model"], ours["model"]):
        del model["phone_labels"]  # comes with the lexicon of the start
        for name in DROPOUTS:  # no part of the network
            del model[name]
    for section in ("features", "model"):
        assert ours[section] == shipped[section], section


@pytest.mark.slow
def test_ten_files_are_enough_to_go_on_from_the_shipped_model(tmp_path: Path) -> None:
    manifest = tmp_path / "ten.jsonl"
    assert pick.main([str(TINY), "--count", "10", "--output", str(manifest)]) == 0
    assert len({utterance.speaker for utterance in read_manifest(manifest)}) > 5
    settings = [
        f"data.train_manifests={manifest}", f"train.init_from={DEFAULT_MODEL}",
        f"train.output_dir={tmp_path / 'run'}", "train.max_steps=2", "train.device=cpu",
        "train.threads=1", "train.log_every=1", "train.warmup_steps=1",
    ]  # fmt: skip
    assert train.main([str(RECIPE / "config.toml"), *settings]) == 0
    lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    first = next(record for record in map(json.loads, lines) if record["kind"] == "train")
    assert first["ctc"] < 2.0, "from random weights it would be above 3"
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pick.main([str(TINY), "--count", "5000", "--output", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err == "pick: --count: found 5000, wanted 1 to 1052\n"
    assert report.main([str(tmp_path), "--output", str(tmp_path / "x")]) == 2
    assert "found no summary" in capsys.readouterr().err


def test_the_table_holds_after_against_before(tmp_path: Path) -> None:
    summary = {
        "wer": 0.5, "wer_interval": [0.4, 0.6], "utterances": 7, "date": "2026-01-02T03:04",
        "baseline": None, "model": {"sha256": "f" * 64}, "command": "measure",
    }  # fmt: skip
    better = summary | {"wer": 0.3, "baseline": {"difference": -0.2, "interval": [-0.3, -0.1]}}
    for name, values in (("before", summary), ("after", better)):
        (tmp_path / name / "tiny").mkdir(parents=True)
        text = json.dumps(values)
        (tmp_path / name / "tiny" / "summary.json").write_text(text, encoding="utf-8")
    rows = report.table(tmp_path).splitlines()[2:]
    assert rows[0].startswith("| before | tiny | 7 | 50.0 (40.0–60.0) |  | ffffffffffff |")
    assert "| after | tiny | 7 | 30.0 (40.0–60.0) | -20.0 (-30.0 to -10.0) |" in rows[1]
