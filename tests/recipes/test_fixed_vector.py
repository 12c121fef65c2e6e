"""`recipes/fixed_vector`: twins that differ in one setting, lengths that differ, honest bins."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asr.audio import load_audio
from asr.config import config_to_dict, load_config
from asr.manifest import read_manifest
from asr.score import bootstrap_interval

RECIPE = Path(__file__).parents[2] / "recipes" / "fixed_vector"


def load(name: str) -> ModuleType:
    """Load a program by its path: names as plain as these may be taken."""
    spec = importlib.util.spec_from_file_location(f"fixed_vector_{name}", RECIPE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


join, report = load("join"), load("report")


def test_the_twins_differ_in_attention_alone() -> None:
    twins = [
        config_to_dict(load_config(RECIPE / f"{n}.toml")) for n in ("fixed_vector", "attention")
    ]
    different = {
        f"{section}.{name}": (value, twins[1][section][name])
        for section, table in twins[0].items()
        for name, value in table.items()
        if value != twins[1][section][name]
    }
    assert different.pop("model.attention") == ("none", "content")
    assert list(different) == ["train.output_dir"]


def test_a_round_holds_every_sentence_once_at_every_length(
    tone_manifest: Path, tmp_path: Path
) -> None:
    rounds = ["--rounds", "1", "1", "2"]
    assert join.main([str(tone_manifest), "--output", str(tmp_path), *rounds]) == 0
    joined = read_manifest(tmp_path / tone_manifest.name)
    single = {utterance.text: utterance for utterance in read_manifest(tone_manifest)}
    texts: dict[int, list[str]] = {}
    for utterance in joined:
        parts = utterance.text.split()
        texts.setdefault(len(parts), []).extend(parts)
        samples = load_audio(utterance.audio_filepath)
        pauses = 0.2 * (len(parts) - 1)
        wanted = sum(len(load_audio(single[part].audio_filepath)) for part in parts) / 16000
        assert len(samples) / 16000 == pytest.approx(wanted + pauses, abs=1e-3)
        assert utterance.duration == pytest.approx(len(samples) / 16000, abs=1e-3)
    every = sorted(utterance.text for utterance in read_manifest(tone_manifest))
    assert sorted(texts[1]) == sorted(texts[2]) == every
    assert len(texts[3]) == 2 * 39, "one of 40 is left over"
    assert join.main(["nowhere.jsonl", "--output", str(tmp_path), *rounds]) == 2


def make_run(run: Path, kind: str, hypotheses: list[str], references: list[str]) -> Path:
    """What training and the benchmark leave behind, as far as the report reads it."""
    (run / "last").mkdir(parents=True)
    config = json.dumps({"model": {"attention": kind}})
    (run / "last" / "config.json").write_text(config, encoding="utf-8")
    folder = report.folder_of(run, Path("some/test.jsonl"))
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"id": str(i), "reference": reference, "hypothesis": hypothesis})
        for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True))
    ]
    (folder / "hypotheses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary: dict[str, Any] = {
        "wer": 0.5, "wer_interval": [0.4, 0.6], "model": {"parameters": 2_000_000, "sha256": "ab"},
        "machine": {"cpu": "Some CPU"}, "date": "2026-01-02T03:04:05", "command": f"run {kind}",
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return run


def test_bins_count_what_is_in_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    references = ["a b", "a b c", "a b c d e f g", "a b c d e f g h"]
    good = make_run(tmp_path / "x", "content", ["a b", "a", *references[2:]], references)
    poor = make_run(tmp_path / "y", "none", ["a b", "a b c", "a b", ""], references)
    options = f"--manifests some/test.jsonl --output {tmp_path} --redraw --edges 5 20"
    assert report.main([str(poor), str(good), *options.split()]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    low, high = bootstrap_interval([5, 8], [7, 8])
    assert f"| 7–8 | 2 | 86.7 ({100 * low:.1f}–{100 * high:.1f}) | 0.0 (0.0–0.0) |" in text
    assert "| 2–3 | 2 | 0.0 (0.0–0.0) | 40.0 (" in text
    assert "fixed vector: WER" in text and "| all | 4 | 50.0 (40.0–60.0) |" in text
    picture = (tmp_path / "some-test.svg").read_text(encoding="utf-8")
    assert "n=2" in picture and "fixed vector" in picture


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"{tmp_path} --manifests some/test.jsonl --output {tmp_path} --redraw"
    assert report.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert "found no finished run" in error and error.count("\n") == 1
    a = make_run(tmp_path / "a", "none", ["x"], ["a"])
    b = make_run(tmp_path / "b", "content", ["x"], ["b"])
    assert report.main([str(a), *arguments.replace(str(tmp_path), str(b), 1).split()]) == 2
    assert "found hypotheses of different utterances" in capsys.readouterr().err
