"""The search for search settings: every combination, the same figures as elsewhere."""

import sys
from pathlib import Path

import pytest
from conftest import make_tone_manifest
from random_model import save_random_model

from asr.checkpoint import load_model
from asr.config import SearchConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import tune_search


def test_all_combinations_are_made_of_the_own_settings() -> None:
    own = SearchConfig(beam_size=5, length_bonus=0.25)
    found = tune_search.combine(own, ["lm_weight=0.5,1", "beam_size=2,3"])
    assert [(s.lm_weight, s.beam_size) for _, s in found] == [(0.5, 2), (0.5, 3), (1, 2), (1, 3)]
    assert all(s.length_bonus == 0.25 for _, s in found)
    assert found[0][0] == "search.lm_weight=0.5 search.beam_size=2"
    with pytest.raises(ValueError, match="lm_wieght"):
        tune_search.combine(own, ["lm_wieght=1"])


def test_the_best_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_tone_manifest(tmp_path / "tones", 4)
    model = save_random_model(tmp_path / "model")
    arguments = [str(model), str(manifest), "method=beam", "ctc_weight=0,1", "--threads", "1"]
    assert tune_search.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    rates = [float(line.split()[1]) for line in lines if line.startswith("WER")]
    assert len(rates) == 4
    best = lines[-1]
    trial = tune_search.Trial(load_model(model), str(manifest), 100)
    _, search = tune_search.combine(SearchConfig(), best.replace("search.", "").split())[0]
    assert 100 * trial.score(search)[0].wer == pytest.approx(min(rates), abs=0.01)


def test_user_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_random_model(tmp_path / "model")
    assert tune_search.main([str(model), str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
