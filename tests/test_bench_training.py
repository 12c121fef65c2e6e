"""`scripts/bench_training.py`: what it times computes the same as what it stands for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.config import Config
from asr.dataset import SpeechDataset, load_utterances
from asr.precision import has_bfloat16
from asr.tokenizer import CharTokenizer

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_training  # noqa: E402
import timed_step  # noqa: E402

Configure = Callable[..., Config]


@pytest.fixture
def config(configure: Configure) -> Config:
    config = configure()
    model = replace(config.model, encoder_dropout=0.0, decoder_dropout=0.0, encoder_layers=2)
    return replace(config, model=model)


@pytest.fixture
def dataset(config: Config) -> SpeechDataset:
    utterances, _ = load_utterances(config.data.train_manifests, config.data)
    return SpeechDataset(utterances, CharTokenizer(config.data.alphabet), 16000)


def gradients(
    config: Config, dataset: SpeechDataset, staged: bool, **way: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    contestant = timed_step.Contestant(timed_step.Variant("", config, "cpu", 1, **way))
    batch = contestant.load(dataset, [0, 5, 9])
    features, lengths = contestant.prepare(batch, 7)
    if staged:
        clock = timed_step.Clock("cpu")
        total = contestant.differentiate(features, lengths, batch, clock)
    else:
        losses = contestant.loss(
            features, lengths, batch.tokens, batch.token_lengths, True,
            batch.counts, timed_step.size_of(batch), batch.phones, batch.phone_lengths,
        )  # fmt: skip
        losses.total.backward()
        total = losses.total.detach()
    named = contestant.model.named_parameters()
    return total.item(), {n: p.grad for n, p in named if p.grad is not None}


@pytest.mark.parametrize("attention", ["content", "location", "none"])
def test_a_step_in_parts_has_the_gradients_of_the_whole(
    config: Config, dataset: SpeechDataset, attention: str
) -> None:
    config = replace(config, model=replace(config.model, attention=attention))
    total, found = gradients(config, dataset, staged=True)
    wanted_total, wanted = gradients(config, dataset, staged=False)
    assert total == pytest.approx(wanted_total, abs=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_phones_and_their_reader_are_part_of_a_step(
    config: Config, dataset: SpeechDataset, tmp_path: Path
) -> None:
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("a one\nb two\nc three\nd four\n", encoding="utf-8")
    model = replace(config.model, phone_reader_width=8)
    train = replace(config.train, phones_alone=0.0)
    config = replace(config, model=model, train=train)
    config = replace(config, data=replace(config.data, lexicon=str(lexicon)))
    total, found = gradients(config, dataset, staged=True)
    wanted_total, wanted = gradients(config, dataset, staged=False)
    assert total == pytest.approx(wanted_total, abs=1e-5)
    assert found.keys() == wanted.keys() and found["phone_head.weight"].any()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_packed_and_looped_ways_compute_the_same(
    config: Config, dataset: SpeechDataset, cell: str
) -> None:
    config = replace(config, model=replace(config.model, encoder_cell=cell))
    wanted_total, wanted = gradients(config, dataset, staged=True)
    for way in ("packed", "looped"):
        total, found = gradients(config, dataset, staged=True, **{way: True})
        assert total == pytest.approx(wanted_total, abs=1e-5), way
        for name in found.keys() & wanted.keys():  # the layers' own weights have other names
            torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-4)


def test_the_table_and_its_file(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, kept = tmp_path / "c.toml", tmp_path / "out" / "speed.json"
    config.write_text(
        '[model]\nencoder_width = 16\nencoder_layers = 1\n[data]\nalphabet = "abcd"\n',
        encoding="utf-8",
    )
    arguments = f"--config {config} --manifest {tone_manifest} --rounds 2 --batch-seconds 4"
    assert bench_training.main([*arguments.split(), "--no-memory", "--json", str(kept)]) == 0
    text = capsys.readouterr().out
    result = json.loads(kept.read_text(encoding="utf-8"))
    assert "| packed layers, fp32 | cpu |" in text and "| looped decoder, bf16 | cpu |" in text
    if not torch.cuda.is_available():
        assert "| as in the project, fp32 | cuda | not run |" in text
    for row in result["rows"]:  # an x86 CPU without bfloat16 would not get through an LSTM
        single = "fp32" in row["name"] or has_bfloat16(torch.device("cpu"))
        assert (row["rate"] is not None) == single or row["device"] == "cuda"
    row = result["rows"][0]
    assert row["rate"] > 0 and sum(row["shares"].values()) == pytest.approx(1)
    assert result["command"].startswith("python scripts/bench_training.py --config")
    sweep = "--sweep --synthetic 2 --device cpu --cells gru --widths 16 32 --convolutions 2 3"
    short = f"--config {config} --rounds 1 --batch-seconds 4 --precisions fp32 {sweep}"
    assert bench_training.main(short.split()) == 0
    text = capsys.readouterr().out
    assert "gru-16, 40 ms, fp32, 1 thr." in text and "gru-32, 80 ms, fp32, 1 thr." in text


def test_peak_memory_is_that_of_a_process_of_its_own(config: Config) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell")
    variant = timed_step.Variant("", config, "cpu", 1)
    ballast = torch.ones(100_000_000)  # 400 MB that must not be counted
    found = bench_training.memory_of(variant, config.data.train_manifests[0])
    del ballast
    assert found is not None and 50 < found < 1500


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_training.main(["--manifest", "nowhere.jsonl", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error == "bench_training: nowhere.jsonl: cannot be read (No such file or directory)\n"
