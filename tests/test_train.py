"""Training: it learns, stops and goes on exactly, and survives what happens to runs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.checkpoint import load_model, load_state
from asr.config import Config, config_to_dict
from asr.train import main, train
from asr.trainer import Trainer
from asr.validate import pick_evenly

Configure = Callable[..., Config]


def weights(output_dir: str | Path) -> dict[str, torch.Tensor]:
    state, _ = load_state(Path(output_dir) / "state.pt")
    return {
        **{f"model.{k}": v for k, v in state["model"].items()},
        **{f"average.{k}": v for k, v in state["average"].items()},
    }


def assert_same_weights(one: str | Path, other: str | Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def write_toml(config: Config, path: Path) -> Path:
    """Write all settings as TOML (JSON's scalars and arrays are TOML's)."""
    lines = []
    for section, values in config_to_dict(config).items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def log(output_dir: str | Path, kind: str) -> list[dict[str, float]]:
    text = (Path(output_dir) / "log.jsonl").read_text(encoding="utf-8")
    return [record for record in map(json.loads, text.splitlines()) if record["kind"] == kind]


def command(config: Config, folder: Path, *overrides: str) -> list[str]:
    path = write_toml(config, folder / "config.toml")
    return [sys.executable, "-m", "asr.train", str(path), *overrides]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_learns_tones(configure: Configure) -> None:
    config = configure(max_steps=250, warmup_steps=20, decay_steps=100, validate_every=125)
    assert train(config) == 0
    dev = log(config.train.output_dir, "dev")
    assert [record["step"] for record in dev] == [125, 250]
    assert min(dev[-1]["cer_ctc"], dev[-1]["cer_greedy"]) < 0.1
    bundle = load_model(Path(config.train.output_dir) / "model")
    assert bundle.config.search.method in ("ctc", "greedy")
    last = load_model(Path(config.train.output_dir) / "last")
    average = load_state(Path(config.train.output_dir) / "state.pt")[0]["average"]
    for name, tensor in last.model.state_dict().items():
        assert torch.equal(tensor, average[f"module.{name}"]), name


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_resumed_equals_uninterrupted_bit_for_bit(configure: Configure, stop_at: int) -> None:
    whole, parts = configure("whole", max_steps=8), configure("parts", max_steps=8)
    train(whole)
    trainer = Trainer(parts, torch.device("cpu"))
    Path(parts.train.output_dir).mkdir()
    trainer.model.train()
    batches = trainer.batches()
    for _ in range(stop_at):  # in the middle of an epoch, of which there are two
        trainer.advance(batches)
    trainer.save()
    train(replace(parts, train=replace(parts.train, resume=True)))
    assert_same_weights(whole.train.output_dir, parts.train.output_dir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_killed_and_resumed_equals_left_alone(
    configure: Configure, tmp_path: Path, number: signal.Signals
) -> None:
    steps = {"max_steps": 40, "log_every": 1, "checkpoint_minutes": 0.0001}
    whole, killed = configure("whole", **steps), configure("killed", **steps)
    train(whole)
    arguments = command(killed, tmp_path)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    state = Path(killed.train.output_dir) / "state.pt"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "resume=true goes on from here" in errors
    assert load_state(state)[0]["progress"]["step"] < 40, "it was killed too late to show anything"
    assert train(replace(killed, train=replace(killed.train, resume=True))) == 0
    assert_same_weights(whole.train.output_dir, killed.train.output_dir)


def test_damaged_state_falls_back_to_the_one_before(configure: Configure) -> None:
    config = configure(max_steps=4)
    train(config)
    resumed = replace(config, train=replace(config.train, resume=True, max_steps=6))
    train(resumed)
    state = Path(config.train.output_dir) / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    trainer = Trainer(resumed, torch.device("cpu"))
    assert trainer.progress.step == 4
    assert any("damaged" in message for message in trainer.messages)


def test_not_finite_gradients_are_skipped_and_counted(configure: Configure) -> None:
    config = configure(max_steps=3)
    trainer = Trainer(config, torch.device("cpu"))
    (batch, place), (other, next_place) = itertools.islice(trainer.batches(), 2)
    trainer.advance(iter([(batch, place)]))
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    trainer.advance(iter([(replace(batch, waveform=batch.waveform * float("nan")), next_place)]))
    assert trainer.count_skipped().skipped == 1 and trainer.progress.step == 2
    for name, parameter in trainer.model.state_dict().items():
        assert torch.equal(parameter, before[name]), name
    trainer.advance(iter([(other, place)]))
    assert trainer.count_skipped().skipped == 1
    assert not torch.equal(trainer.model.ctc_head.bias, before["ctc_head.bias"])


def test_two_processes_train_and_stop_together(configure: Configure, tmp_path: Path) -> None:
    config = configure(max_steps=4, ctc_only_steps=2, validate_every=2, log_every=1)
    arguments = command(config, tmp_path)
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        *arguments[1:],
    ]
    done = subprocess.run(torchrun, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [r["step"] for r in log(config.train.output_dir, "train")] == [1, 2, 3, 4]
    assert [r["step"] for r in log(config.train.output_dir, "dev")] == [2, 4]
    # The state of two processes is as good for one.
    assert train(replace(config, train=replace(config.train, resume=True, max_steps=6))) == 0


def test_a_run_is_never_overwritten(configure: Configure, capsys: pytest.CaptureFixture[str],
                                    tmp_path: Path) -> None:  # fmt: skip
    config = configure(max_steps=1)
    path = write_toml(config, tmp_path / "config.toml")
    assert main([str(path)]) == 0
    before = (Path(config.train.output_dir) / "state.pt").read_bytes()
    assert main([str(path)]) == 2
    assert "found a training state; resume=true goes on from it" in capsys.readouterr().err
    assert (Path(config.train.output_dir) / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resume=true", "no training state to resume"),
        ("data.train_manifests=none.jsonl", "none.jsonl"),
        ("init_from=nowhere", "nowhere: found no config.json"),
        ("encoder_wdith=3", "did you mean 'encoder_width'"),
    ],
)
def test_user_errors_are_one_line(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    override: str, message: str,
) -> None:  # fmt: skip
    path = write_toml(configure(), tmp_path / "config.toml")
    assert main([str(path), override]) == 2
    errors = capsys.readouterr().err
    assert message in errors and len(errors.strip().splitlines()) == 1


def test_resuming_another_network_is_refused(configure: Configure) -> None:
    config = configure(max_steps=1)
    train(config)
    other = replace(
        config, model=replace(config.model, encoder_width=33),
        train=replace(config.train, resume=True),
    )  # fmt: skip
    with pytest.raises(ValueError, match="another network; wanted model.encoder_width=32"):
        Trainer(other, torch.device("cpu"))


def test_starting_from_a_model_takes_its_weights(configure: Configure) -> None:
    first = configure("first", max_steps=2)
    train(first)
    second = configure("second", init_from=f"{first.train.output_dir}/model")
    trainer = Trainer(second, torch.device("cpu"))
    expected = load_model(f"{first.train.output_dir}/model").model.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_pick_evenly() -> None:
    assert pick_evenly(list(range(10)), 3) == [0, 3, 6]  # type: ignore[type-var]
    assert pick_evenly(list(range(3)), 0) == [0, 1, 2]  # type: ignore[type-var]
