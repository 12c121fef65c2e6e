"""`recipes/librispeech/run.sh`: from audio to the table on a corpus in miniature."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.checkpoint import load_model

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "recipes" / "librispeech" / "run.sh"
SMALL = [
    "model.conv_channels=[4,4]",
    "model.encoder_layers=1",
    "model.encoder_width=8",
    "model.attention_width=8",
    "model.decoder_width=8",
    "train.max_steps=2",
    "train.ctc_only_steps=0",
    "train.validate_every=2",
    "train.threads=1",
    "train.device=cpu",
    "data.dev_utterances=2",
    "data.lexicon=lexicon.txt",
]
LEXICON = {"it": "i t", "is": "i s", "a": "e", "test": "t e s t", "so": "s o", "of": "o f"}


def make_corpus(corpus: Path) -> None:
    """Two noisy utterances of one speaker in each subset, and a lexicon beside the corpus."""
    noise = np.random.default_rng(1).normal(0, 0.1, 16000)
    names = "train-clean-5 dev-clean dev-other test-clean test-other"
    for number, subset in enumerate(names.split()):
        folder = corpus / "LibriSpeech" / subset / str(number) / "1"
        folder.mkdir(parents=True)
        for index in range(2):
            soundfile.write(folder / f"{number}-1-000{index}.flac", noise, 16000)
        lines = f"{number}-1-0000 IT IS A TEST\n{number}-1-0001 SO IT IS\n"
        (folder / f"{number}-1.trans.txt").write_text(lines, encoding="utf-8")
    said = "".join(f"{word}\t{phones}\n" for word, phones in LEXICON.items())
    (corpus.parent / "lexicon.txt").write_text(said, encoding="utf-8")


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHON": sys.executable}
    environment |= {"GPUS": "0", "RESULTS": "results", "OMP_NUM_THREADS": "1"} | variables
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_from_nothing_to_the_table_and_on_from_each_stage(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpora")
    first = run(tmp_path, "mini_5h", *SMALL)
    assert first.returncode == 0, first.stderr
    stages = [line[3:6] for line in first.stdout.splitlines() if line.startswith("== ")]
    assert stages == ["1/4", "2/4", "3/4", "4/4", "all"]
    table = (tmp_path / "results" / "RESULTS.md").read_text(encoding="utf-8")
    for name in ("dev-clean", "dev-other", "test-clean", "test-other"):
        assert f"| mini_5h | {name} |" in table and f"| mini_5h | {name} |" in first.stdout
    log = (tmp_path / "runs" / "mini_5h" / "log.jsonl").read_text(encoding="utf-8")
    second = run(tmp_path, "mini_5h", *SMALL)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("already prepared") == 5
    assert second.stdout.count("already there") == 4
    assert "3/4 training: runs/mini_5h is complete" in second.stdout
    assert (tmp_path / "runs" / "mini_5h" / "log.jsonl").read_text(encoding="utf-8") == log
    longer = [item.replace("max_steps=2", "max_steps=3") for item in SMALL]
    (tmp_path / "text.txt").write_text("it is a test of text\n" * 300, encoding="utf-8")
    folder = tmp_path / "runs" / "mini_5h"
    for name in ("words.safetensors.tmp", "model/words.safetensors"):  # it was stopped there
        (folder / name).write_bytes(b"half of it")
    third = run(tmp_path, "mini_5h", *longer, LM_TEXT="text.txt")
    assert third.returncode == 0, third.stderr
    assert "2/4 language model runs/mini_5h/words.safetensors from text.txt" in third.stdout
    assert "3/4 training goes on with 0 GPUs" in third.stdout
    assert "-- --method words`" in third.stdout
    bundle = load_model(folder / "model")
    assert bundle.config.search.method == "words" and bundle.word_decoder is not None
    assert bundle.language_model is not None and bundle.word_model is not None
    assert sorted(bundle.word_model.words) == sorted("it is a test of text".split())
    made = (folder / "words.safetensors").stat().st_mtime_ns
    fourth = run(tmp_path, "mini_5h", *longer, LM_TEXT="text.txt", EVALUATE="--fast")
    assert fourth.returncode == 0, fourth.stderr
    assert "2/4 language model: runs/mini_5h/words.safetensors is there" in fourth.stdout
    assert "3/4 training: runs/mini_5h is complete" in fourth.stdout
    assert "-- --fast`" in fourth.stdout
    assert (folder / "words.safetensors").stat().st_mtime_ns == made


@pytest.mark.slow
def test_without_phones_the_search_goes_along_characters(tmp_path: Path) -> None:
    make_corpus(tmp_path / "corpora")
    (tmp_path / "text.txt").write_text("it is a test of text\n" * 300, encoding="utf-8")
    done = run(tmp_path, "mini_5h", *SMALL, "data.lexicon=", LM_TEXT="text.txt")
    assert done.returncode == 0, done.stderr
    assert "-- --method beam --lm-weight 0.4`" in done.stdout
    bundle = load_model(tmp_path / "runs" / "mini_5h" / "model")
    assert bundle.language_model is not None and bundle.word_decoder is None


def test_errors_are_one_line(tmp_path: Path) -> None:
    unknown = run(tmp_path, "huge")
    assert (unknown.returncode, unknown.stderr) == (
        2,
        "run.sh: found configuration 'huge', wanted mini_5h, clean_100h, clean_460h or full_960h\n",
    )
    (tmp_path / "corpora" / "LibriSpeech" / "train-clean-5").mkdir(parents=True)
    empty = run(tmp_path, "mini_5h")
    assert empty.returncode == 2 and empty.stderr.count("\n") == 1
    assert "no *.trans.txt file found" in empty.stderr
    away = run(tmp_path, "mini_5h", CORPUS="nothing", MIRROR="http://127.0.0.1:9")
    assert away.returncode == 2 and away.stderr.count("\n") == 1
    assert "127.0.0.1:9/resources/31/train-clean-5.tar.gz: download stopped" in away.stderr
