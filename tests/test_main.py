"""All programs under one name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import asr
from asr.__main__ import COMMANDS, main


def test_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(f"asr {name} " in output for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"asr {asr.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_the_programs(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "asr", command, "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


def test_mistyped_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trascribe", "a.wav"]) == 2
    assert capsys.readouterr().err == (
        "asr: found unknown command trascribe, did you mean transcribe?\n"
    )
    assert main(["xyzzy"]) == 2
    assert "wanted one of transcribe, train" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_learn_the_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("--beam-size", "benchmark", "--examples", "--shard-mb", "--dry-run"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_bash_completes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out + (
        'COMP_WORDS=(asr "$@"); COMP_CWORD=$#\n_shtab_asr asr "${COMP_WORDS[$#]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )

    def complete(*words: str) -> list[str]:
        command = ["bash", "-s", "--", *words]
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=True)
        return done.stdout.split()

    assert complete("man") == ["manifest"]
    assert complete("manifest", "") == ["check", "create"]
    assert complete("manifest", "check", "--ex") == ["--examples"]
    assert complete("shards", "pack", "--sh") == ["--shard-mb", "--shuffle-seed"]
    assert complete("train", "x.toml", "train.max_s") == ["train.max_steps="]
    assert complete("transcribe", "--beam") == ["--beam-size"]


def test_completion_for_another_shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["completion", "fish"]) == 2
    assert capsys.readouterr().err == ("asr: completion: found fish, wanted one of bash, zsh\n")
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'asr[completion]'" in capsys.readouterr().err
