"""Parsers of all programs: one line, the nearest name, exit code 2."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr.arguments import Parser

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("manifest", "chekc x", "argument command: found 'chekc', did you mean check?"),
        ("manifest", "check --exampels 3 x", "option --exampels, did you mean --examples?"),
        ("manifest", "create --tabel x y --output z", "option --tabel, did you mean --table?"),
        ("shards", "pack --shard-md 3 x --output y", "option --shard-md, did you mean --shard-mb?"),
        ("shards", "pack --format mp3 x --output y", "found 'mp3', wanted one of flac, copy"),
        ("train", "x --dry-ran", "option --dry-ran, did you mean --dry-run?"),
        ("train", "x --device cpu", "option --device, did you mean device=VALUE?"),
        ("train", "x --train.max-step=5", "did you mean train.max_steps=VALUE?"),
        ("train", "x --resume", "option --resume, did you mean resume=VALUE?"),
        ("benchmark", "--lmit 3 x", "option --lmit, did you mean --limit?"),
        ("benchmark", "x y", "found y, wanted no more arguments"),
        ("run_report", "x --outptu y", "found unknown option --outptu"),
        ("transcribe", "--method baem x", "argument --method: found 'baem', did you mean beam?"),
    ],
)
def test_mistyped_arguments_are_one_line(
    program: str, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"asr.{program}").main(arguments.split())
    output = capsys.readouterr()
    assert stopped.value.code == 2 and output.out == ""
    assert output.err.startswith("asr: ") and output.err.count("\n") == 1
    assert message in output.err


@pytest.mark.parametrize("script", ["recipes/librispeech/train.py", "recipes/finetune/pick.py"])
def test_recipes_have_the_same_hints(script: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / script),
            "x",
            "--cuont",
            "3",
            "--count",
            "3",
            "--output",
            "y",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "found unknown option --cuont" in done.stderr


def test_commands_inside_commands() -> None:
    parser = Parser(prog="outer")
    inner = parser.add_subparsers(required=True).add_parser("do")
    inner.add_argument("--number", type=int)
    assert parser.parse_args(["do", "--number", "3"]).number == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["do", "--num", "3"])  # no abbreviations, there neither
