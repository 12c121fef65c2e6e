"""`recipes/librispeech/evaluate.py` and `train.py`: tables come from files, never from hands."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "librispeech"
sys.path.insert(0, str(RECIPE))

import evaluate  # noqa: E402

SUMMARY = {
    "wer": 0.1234,
    "cer": 0.05,
    "wer_interval": [0.11, 0.13],
    "cer_interval": [0.04, 0.06],
    "rtfx": 20.0,
    "machine": {"gpu": None, "cpu": "Some CPU", "threads": 2},
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m asr.benchmark",
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe folder of its own, with a benchmark that only writes a summary."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "never_run.toml").touch()
    table = tmp_path / "RESULTS.md"
    table.write_text(f"before\n{evaluate.BEGIN}\nold\n{evaluate.END}\nafter\n", encoding="utf-8")
    shipped = tmp_path / "README.md"
    shipped.write_text(f"{evaluate.BEGIN}\n{evaluate.END}\n", encoding="utf-8")
    for name, value in {
        "DEFAULT_TABLES": (shipped,),
        "RECIPE": tmp_path,
    }.items():
        monkeypatch.setattr(evaluate, name, value)

    def benchmark(arguments: list[str]) -> int:
        output = Path(arguments[arguments.index("--output-dir") + 1])
        output.mkdir(parents=True)
        (output / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
        return 0

    import asr

    fake = types.SimpleNamespace(main=benchmark)
    monkeypatch.setitem(sys.modules, "asr.benchmark", fake)
    monkeypatch.setattr(asr, "benchmark", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev-clean.jsonl").touch()
    return tmp_path


def test_evaluation_ends_in_the_table(recipe: Path) -> None:
    arguments = "model --name mini_5h --manifests . --sets dev-clean -- --beam-size 2".split()
    assert evaluate.main(arguments) == 0
    text = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert (
        "| mini_5h | dev-clean | 12.34 (11.00–13.00) | 5.00 (4.00–6.00) | 20.0 "
        "| 2 threads of Some CPU | 2026-01-02 |"
    ) in text
    assert "| never_run | not run | not run | not run |" in text
    assert "--sets dev-clean -- --beam-size 2`" in text
    kept = json.loads((recipe / "results/mini_5h/dev-clean.json").read_text(encoding="utf-8"))
    assert kept["wer"] == SUMMARY["wer"] and kept["command"].endswith("--beam-size 2")
    assert evaluate.main(["--table-only"]) == 0
    assert (recipe / "RESULTS.md").read_text(encoding="utf-8") == text


def test_what_is_measured_already_is_kept_until_the_model_changes(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = recipe / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    runs = []

    def benchmark(arguments: list[str]) -> int:
        runs.append(arguments)
        output = Path(arguments[arguments.index("--output-dir") + 1])
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
        return 0

    monkeypatch.setattr(sys.modules["asr.benchmark"], "main", benchmark)
    arguments = "model --name x --manifests . --sets dev-clean --results new/place --keep".split()
    assert evaluate.main(arguments) == 0 and len(runs) == 1
    assert "| x | dev-clean | 12.34" in (recipe / "new/place/RESULTS.md").read_text("utf-8")
    assert evaluate.main(arguments) == 0 and len(runs) == 1, "nothing has changed"
    assert evaluate.main([*arguments, "--", "--greedy"]) == 0 and len(runs) == 2, "other search"
    weights.write_bytes(b"other weights")
    assert evaluate.main([*arguments, "--", "--greedy"]) == 0 and len(runs) == 3
    (weights.parent / "words.safetensors").write_bytes(b"another language model")
    assert evaluate.main([*arguments, "--", "--greedy"]) == 0 and len(runs) == 4


def test_the_shipped_model_has_tables_by_length_and_by_speaker(recipe: Path) -> None:
    part = {"from": 5.0, "to": 10.0, "wer": 0.2, "wer_interval": [0.1, 0.3]}
    by_length = [part, part | {"from": 15.0, "to": None, "wer": None, "wer_interval": None}]
    spread = dict.fromkeys(evaluate.SPREAD, 0.25) | {"speakers": 4, "best": "a", "worst": "z"}
    new = SUMMARY | {"by_length": by_length, "by_speaker": spread}
    for place, summary in {"default/new": new, "default/old": SUMMARY, "mini/own": new}.items():
        path = recipe / f"results/{place}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary), encoding="utf-8")
    assert evaluate.main(["--table-only"]) == 0
    text = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert (
        "| set | 5–10 s | 15 s and more |\n|---|---|---|\n| new | 20.00 (10.00–30.00) | – |" in text
    )
    assert "| new | 4 | 25.00 (a) | 25.00 | 25.00 | 25.00 | 25.00 (z) |" in text
    assert "\n| old |" not in text, "a summary made before there were any"
    assert "\n| own |" not in text, "not the shipped model"


def test_errors_are_one_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main("model --name x --manifests . --sets nowhere".split()) == 2
    error = capsys.readouterr().err
    assert "nowhere.jsonl: not found" in error and error.count("\n") == 1
    (recipe / "results/x").mkdir(parents=True)
    (recipe / "results/x/a.json").write_text('{"wer": 1}', encoding="utf-8")
    assert evaluate.main(["--table-only"]) == 2
    assert "summary without cer, wer_interval" in capsys.readouterr().err
    (recipe / "results/x/a.json").unlink()
    (recipe / "RESULTS.md").write_text("no markers", encoding="utf-8")
    assert evaluate.main(["--table-only"]) == 2
    assert "made by evaluate.py: begin" in capsys.readouterr().err


def test_the_table_that_ships_is_made_from_the_results_that_ship() -> None:
    configs = [path.stem for path in (RECIPE / "configs").glob("*.toml")]
    results = evaluate.load_results(RECIPE / evaluate.RESULTS)
    table = evaluate.make_page(results, configs)
    text = (RECIPE / evaluate.TABLE).read_text(encoding="utf-8")
    assert text.split(evaluate.BEGIN)[1].split(evaluate.END)[0].strip() == table.strip()
    shipped = [result for result in results if result.model == evaluate.DEFAULT]
    for path in evaluate.DEFAULT_TABLES:
        text = path.read_text(encoding="utf-8")
        table = evaluate.make_table(shipped, [evaluate.DEFAULT])
        assert text.split(evaluate.BEGIN)[1].split(evaluate.END)[0].strip() == table.strip()


def test_an_unknown_configuration_names_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Loaded by path: as `train` it would be taken for any other module of that name.
    import importlib.util

    spec = importlib.util.spec_from_file_location("librispeech_train", RECIPE / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["nothing"]) == 2
    assert "'nothing' not found: known are " in capsys.readouterr().err
