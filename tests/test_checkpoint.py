"""Model directories and training states: round trips, and what damage gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from asr.checkpoint import (
    CheckpointError,
    build_model,
    load_model,
    load_state,
    previous_state,
    save_model,
    save_state,
)
from asr.config import Config

Configure = Callable[..., Config]


@pytest.fixture
def saved(configure: Configure, tmp_path: Path) -> Path:
    config = configure()
    torch.manual_seed(0)
    model, features, tokenizer = build_model(config)
    features.mean.uniform_()
    save_model(tmp_path / "model", model, features, tokenizer, config, card="# Card\n")
    return tmp_path / "model"


def test_round_trip(saved: Path, configure: Configure) -> None:
    torch.manual_seed(0)
    model, _, tokenizer = build_model(configure())
    bundle = load_model(saved)
    assert bundle.config == configure()
    assert bundle.tokenizer.alphabet == tokenizer.alphabet
    assert not bundle.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(bundle.model.state_dict()[name], tensor), name
    assert (saved / "README.md").read_text(encoding="utf-8") == "# Card\n"
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]


def test_half_precision_on_disk(saved: Path, configure: Configure, tmp_path: Path) -> None:
    full = load_model(saved)
    save_model(
        tmp_path / "half", full.model, full.features, full.tokenizer, full.config, torch.float16
    )
    half = load_model(tmp_path / "half")
    sizes = [(p / "model.safetensors").stat().st_size for p in (saved, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    for name, tensor in full.model.state_dict().items():
        found = half.model.state_dict()[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, tensor, atol=1e-3, rtol=1e-3)
    assert torch.equal(half.features.mean, full.features.mean)  # statistics stay exact


def test_eight_bits_on_disk_are_held_against_the_network(
    configure: Configure, tmp_path: Path
) -> None:
    config = replace(configure(), model=replace(configure().model, encoder_width=40))
    save_model(tmp_path / "m", *build_model(config), config, torch.int8)
    path = tmp_path / "m" / "model.safetensors"
    whole = load_file(path)
    load_model(tmp_path / "m")
    name = "model.encoder.layers.0.cells.0.weight_ih_l0"
    assert whole[name].dtype == torch.int8
    scales = whole[f"{name}.scale"]
    for changes, message in (
        ({f"{name}.scale": None}, f"{name}: found int8 weights, wanted {name}.scale"),
        ({f"{name}.scale": scales[:-1]}, f"{name}.scale: found shape"),
        ({f"{name}.scale": scales * float("inf")}, f"{name}.scale: wanted finite numbers"),
        ({name: None}, f"missing \\['{name}'\\], unknown \\['{name}.scale'\\]"),
        ({name: whole[name][:-1], f"{name}.scale": scales[:-1]}, f"{name}: found shape"),
        ({"model.x": torch.ones(1, dtype=torch.int8)}, "model.x: found int8 weights"),
    ):
        changed = {n: t for n, t in {**whole, **changes}.items() if t is not None}
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=message) as caught:
            load_model(tmp_path / "m")
        assert "\n" not in str(caught.value)


def test_saving_again_replaces(saved: Path, configure: Configure) -> None:
    model, features, tokenizer = build_model(configure())
    save_model(saved, model, features, tokenizer, configure())
    weights = load_model(saved).model.state_dict()["ctc_head.bias"]
    assert torch.equal(weights, model.state_dict()["ctc_head.bias"])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_missing_and_empty_files_are_named(saved: Path, name: str) -> None:
    (saved / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged model directory"):
        load_model(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"found no {name}"):
        load_model(saved)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cut=st.floats(0, 0.999))
def test_weights_cut_anywhere_are_refused(saved: Path, cut: float) -> None:
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: int(len(whole) * cut)])
        with pytest.raises(CheckpointError):
            load_model(saved)
    finally:
        path.write_bytes(whole)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    config["model"]["encoder_width"] += 1
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"found shape .* wanted"):
        load_model(saved)
    config["model"]["encoder_layers"] += 1
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not fit config.json: missing"):
        load_model(saved)


def test_not_finite_weights_are_refused(saved: Path) -> None:
    bundle = load_model(saved)
    with torch.no_grad():
        bundle.model.ctc_head.bias[0] = float("nan")
    save_model(saved, bundle.model, bundle.features, bundle.tokenizer, bundle.config)
    with pytest.raises(CheckpointError, match="ctc_head.bias: found NaN"):
        load_model(saved)


def test_state_keeps_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    save_state(path, {"step": 2})
    assert load_state(path) == ({"step": 2}, "")
    path.write_bytes(path.read_bytes()[:100])
    state, warning = load_state(path)
    assert state == {"step": 1} and "damaged" in warning
    previous_state(path).unlink()
    with pytest.raises(CheckpointError, match="no training state to resume"):
        load_state(path)


def test_state_runs_no_code(tmp_path: Path) -> None:
    torch.save({"step": Path("x")}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(tmp_path / "state.pt")
