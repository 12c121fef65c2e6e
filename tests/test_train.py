"""Training: it learns, stops and goes on exactly, and survives what happens to runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from asr.checkpoint import load_model, load_state
from asr.config import AugmentConfig, Config, config_to_dict
from asr.manifest import read_manifest, write_manifest
from asr.shards import main as pack
from asr.train import main, stopped_by_signals, train
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
    batches = trainer.source.batches(trainer.progress.position)
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


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_state_falls_back_to_the_one_before(configure: Configure, damage: str) -> None:
    config = configure(max_steps=4)
    train(config)
    resumed = replace(config, train=replace(config.train, resume=True, max_steps=6))
    train(resumed)
    state = Path(config.train.output_dir) / "state.pt"
    content = bytearray(state.read_bytes())
    if damage == "cut":
        del content[-1000:]
    else:
        content[len(content) // 2] ^= 1  # in the middle of the weights: torch.load sees nothing
    state.write_bytes(content)
    trainer = Trainer(resumed, torch.device("cpu"))
    assert trainer.progress.step == 4
    assert any("damaged" in message for message in trainer.messages)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes behind ``size`` bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_last_good_state(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(max_steps=2)
    train(config)
    folder = Path(config.train.output_dir)
    before = (folder / "state.pt").read_bytes()
    model = (folder / "model" / "model.safetensors").read_bytes()
    steps = {"resume": True, "max_steps": 5, "checkpoint_minutes": 1e-9, "validate_every": 1}
    longer = replace(config, train=replace(config.train, **steps))
    path = write_toml(longer, folder.parent / "longer.toml")
    with largest_file(30_000):
        assert main([str(path)]) == 2
    errors = capsys.readouterr().err
    assert "step 3: " in errors and "cannot be written" in errors and "training goes on" in errors
    assert errors.strip().splitlines()[-1].startswith("asr.train: ")
    assert (folder / "state.pt").read_bytes() == before
    assert (folder / "model" / "model.safetensors").read_bytes() == model
    assert not [p for p in folder.rglob("*") if "tmp" in p.name]
    assert train(longer) == 0
    assert load_state(folder / "state.pt")[0]["progress"]["step"] == 5


def test_an_update_may_hear_its_utterances_twice(configure: Configure) -> None:
    once = configure("once", max_steps=2, log_every=1)
    twice = configure("twice", max_steps=2, log_every=1, consistency_weight=0.3)
    for config in (once, twice):
        assert train(config) == 0
    single, double = (log(config.train.output_dir, "train") for config in (once, twice))
    assert [row["consistency"] for row in single] == [0, 0]
    assert all(row["consistency"] > 0 for row in double), "dropout and loudness differ"
    assert double[-1]["audio_hours"] == single[-1]["audio_hours"], "no more was read"
    # The mean of both hearings, not their sum.
    assert double[0]["ctc"] == pytest.approx(single[0]["ctc"], rel=0.2)


def test_a_cpu_that_only_imitates_bfloat16_trains_in_single_precision(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for able, precision in ((False, "fp32"), (True, "bf16")):
        found = {"architecture": "x86_64", "avx2": True, "avx512_bf16": able}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        trainer = Trainer(configure(precision="bf16"), torch.device("cpu"))
        assert trainer.config.train.precision == precision
        assert any("no bfloat16" in message for message in trainer.messages) is not able


def test_not_finite_gradients_are_skipped_and_counted(configure: Configure) -> None:
    config = configure(max_steps=3)
    trainer = Trainer(config, torch.device("cpu"))
    (batch, place), (other, next_place) = itertools.islice(
        trainer.source.batches(trainer.progress.position), 2
    )
    trainer.advance(iter([(batch, place)]))
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    trainer.advance(iter([(replace(batch, waveform=batch.waveform * float("nan")), next_place)]))
    assert trainer.count_skipped().skipped == 1 and trainer.progress.step == 2
    for name, parameter in trainer.model.state_dict().items():
        assert torch.equal(parameter, before[name]), name
    trainer.advance(iter([(other, place)]))
    assert trainer.count_skipped().skipped == 1
    assert not torch.equal(trainer.model.ctc_head.bias, before["ctc_head.bias"])


def torchrun(processes: int, arguments: list[str]) -> list[str]:
    """Return the command that runs ``python -m asr.train …`` in several processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc-per-node={processes}", *arguments[1:]]


def run_in_processes(processes: int, config: Config, folder: Path) -> None:
    arguments = command(config, folder)
    if processes > 1:
        arguments = torchrun(processes, arguments)
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr


def without_chance(config: Config) -> Config:
    """Return settings without dropout and augmentation, which draw anew in each process."""
    return replace(
        config,
        model=replace(config.model, encoder_dropout=0.0, decoder_dropout=0.0),
        augment=AugmentConfig((1.0,), gain_db=0.0, frequency_masks=0, time_masks=0),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_are_one_with_the_doubled_batch(
    optimizer: str, configure: Configure, tmp_path: Path
) -> None:
    steps = {"max_steps": 16, "ctc_only_steps": 4, "validate_every": 8, "log_every": 1}
    steps["optimizer"] = optimizer
    two, one = (without_chance(configure(name, **steps)) for name in ("two", "one"))
    # The second pass over 40 utterances begins within these steps, and 4 s hold so few of them
    # that some updates have an utterance for one process alone.
    two = replace(two, data=replace(two.data, batch_seconds=2.0, max_batch_size=3))
    one = replace(one, data=replace(one.data, batch_seconds=4.0, max_batch_size=6))
    run_in_processes(2, two, tmp_path)
    train(one)
    for kind in ("train", "dev"):
        curves = [log(config.train.output_dir, kind) for config in (two, one)]
        assert [r["step"] for r in curves[0]] == [r["step"] for r in curves[1]]
        for ours, expected in zip(*curves, strict=True):
            assert ours.keys() == expected.keys()
            for name in ours.keys() - {"time", "processor", "audio_hours_per_hour"}:
                wanted = expected[name]
                if isinstance(wanted, float):
                    wanted = pytest.approx(wanted, rel=1e-3)
                assert ours[name] == wanted, (ours, name)


def test_two_processes_may_leave_the_phones_as_they_are(
    configure: Configure, tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("a one\nb two\nc three\nd four\n", encoding="utf-8")
    config = configure(max_steps=3, log_every=1, phone_weight=0.0, ctc_only_steps=0)
    config = replace(config, data=replace(config.data, lexicon=str(lexicon), batch_seconds=2.0))
    run_in_processes(2, config, tmp_path)
    assert [row["phone"] for row in log(config.train.output_dir, "train")] == [0, 0, 0]


def test_a_run_goes_on_with_any_number_of_processes(configure: Configure, tmp_path: Path) -> None:
    config = configure("run", max_steps=3, log_every=1)
    config = replace(config, data=replace(config.data, batch_seconds=2.0))
    for processes, last in ((2, 3), (1, 8), (3, 10), (2, 14)):
        config = replace(config, train=replace(config.train, max_steps=last))
        run_in_processes(processes, config, tmp_path)
        config = replace(config, train=replace(config.train, resume=True))
    records = log(config.train.output_dir, "train")
    assert [r["step"] for r in records] == list(range(1, 15))
    # What was heard before the first pass ended is no more than all there is, and no less.
    durations = [u.duration for u in read_manifest(config.data.train_manifests[0])]
    pass_ends = next(r for r in records if r["epoch"] == 1)["audio_hours"]
    assert pass_ends == pytest.approx(sum(durations) / 3600, rel=1e-6)


def test_two_processes_end_each_pass_over_shards_together(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(max_steps=30, log_every=10, ctc_only_steps=1000)
    shards = ["--output", str(tmp_path / "shards"), "--utterances-per-shard", "9"]
    assert pack(["pack", config.data.train_manifests[0], *shards]) == 0
    # Five shards: one process has 27 utterances, the other 13.
    pattern = str(tmp_path / "shards" / "tones-{000000..000004}.tar")
    config = replace(
        config, data=replace(config.data, train_manifests=(pattern,), batch_seconds=4.0)
    )
    run_in_processes(2, config, tmp_path)
    records = log(config.train.output_dir, "train")
    assert [r["step"] for r in records] == [10, 20, 30] and records[-1]["epoch"] >= 2
    assert all(r["total"] > 0 for r in records)


@pytest.mark.skipif(sys.platform != "linux", reason="threads are named under /proc")
def test_no_thread_of_the_process_group_outlives_it(configure: Configure, tmp_path: Path) -> None:
    # One that does may want the interpreter when it is gone, which aborts the process (SIGABRT).
    program = tmp_path / "threads.py"
    program.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom asr.train import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]\n"
        "sys.exit(sum('gloo' in name for name in names))\n",
        encoding="utf-8",
    )
    arguments = torchrun(2, command(configure(max_steps=2, ctc_only_steps=0), tmp_path))
    place = arguments.index("-m", arguments.index("--standalone"))
    arguments[place : place + 2] = [str(program)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr


def test_one_process_lost_ends_the_others(configure: Configure, tmp_path: Path) -> None:
    config = configure(max_steps=100_000, checkpoint_minutes=1e-9)
    arguments = command(config, tmp_path)
    with subprocess.Popen(
        torchrun(2, arguments), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as run:
        state = Path(config.train.output_dir) / "state.pt"
        deadline = time.monotonic() + 60
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(worker(run.pid, rank=1), signal.SIGKILL)
        _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "asr.train: rank 0: another process is gone" in errors and "resume=true" in errors
    before = load_state(state)[0]["progress"]["step"]
    alone = replace(config, train=replace(config.train, resume=True, max_steps=before + 1))
    assert train(alone) == 0


def test_ctrl_c_reaches_torchrun_and_its_processes_and_the_state_is_saved(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure(max_steps=100_000, log_every=1)
    arguments = torchrun(2, command(config, tmp_path))
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
    ) as run:
        records = Path(config.train.output_dir) / "log.jsonl"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if records.exists() and '"train"' in records.read_text(encoding="utf-8"):
                break
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=60)
    assert "resume=true goes on from here" in errors
    state = load_state(Path(config.train.output_dir) / "state.pt")[0]
    assert state["progress"]["step"] > 0


def test_a_second_wish_to_stop_is_heard_a_while_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = Mock(stop_signal=0)
    ended = []
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    with stopped_by_signals(trainer):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert trainer.stop_signal == signal.SIGTERM and not ended
        monkeypatch.setattr("asr.train.SAME_WISH_SECONDS", -1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def worker(parent: int, rank: int) -> int:
    """Return the process of a rank that torchrun has started."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


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
    with pytest.raises(ValueError, match="other settings; wanted model.encoder_width=32"):
        Trainer(other, torch.device("cpu"))


def test_pick_evenly() -> None:
    assert pick_evenly(list(range(10)), 3) == [0, 3, 6]  # type: ignore[type-var]
    assert pick_evenly(list(range(3)), 0) == [0, 1, 2]  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("section", "change", "wanted"),
    [
        ("data", {"alphabet": "dcba"}, "data.alphabet='abcd'"),
        ("data", {"alphabet": "abcde"}, "data.alphabet='abcd'"),
        ("train", {"freeze": ("encoder.front_end",)}, "train.freeze=[]"),
        ("train", {"optimizer": "muon"}, "train.optimizer=adamw"),
    ],
)
def test_resuming_with_another_alphabet_or_other_frozen_parts_is_refused(
    configure: Configure, section: str, change: dict[str, Any], wanted: str
) -> None:
    config = configure(max_steps=1)
    train(config)
    other = replace(config, train=replace(config.train, resume=True))
    other = replace(other, **{section: replace(getattr(other, section), **change)})
    with pytest.raises(ValueError, match=re.escape(f"wanted {wanted}")):
        Trainer(other, torch.device("cpu"))


def test_dev_utterances_may_join_a_run_later(configure: Configure) -> None:
    config = configure(max_steps=2)
    alone = replace(config, data=replace(config.data, dev_manifests=()))
    train(alone)
    model = Path(config.train.output_dir) / "model" / "model.safetensors"
    before = model.read_bytes()  # the newest, for want of a better judgement
    train(replace(config, train=replace(config.train, resume=True, max_steps=4)))
    assert model.read_bytes() != before
    state = load_state(Path(config.train.output_dir) / "state.pt")[0]
    assert 0 <= state["progress"]["best_wer"] < float("inf")


def test_dev_files_that_cannot_be_read_are_named(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(max_steps=1)
    utterances = read_manifest(config.data.dev_manifests[0])[:3]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no sound")
    write_manifest(
        tmp_path / "dev.jsonl",
        [replace(utterances[0], audio_filepath=str(broken)), *utterances[1:]],
    )
    dev = (str(tmp_path / "dev.jsonl"),)
    train(replace(config, data=replace(config.data, dev_manifests=dev)))
    assert f"left out of the dev utterances: {broken}" in capsys.readouterr().err
    assert log(config.train.output_dir, "dev")[0]["utterances"] == 2
