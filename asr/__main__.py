"""All programs under one name.

    asr transcribe talk.wav
    asr train recipes/tiny/config.toml
    asr benchmark data/tiny/test.jsonl
    asr manifest check mine/train.jsonl
    asr completion bash >> ~/.bash_completion     # the extra `completion` has what it needs

`python -m asr` is the same.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from asr import __version__
from asr.arguments import EXIT_ERROR, EXIT_OK, Parser, complain

COMMANDS = {
    "transcribe": "print what is said in recordings",
    "train": "train a network",
    "benchmark": "measure word error rates",
    "manifest": "make and check lists of one's own training data",
    "shards": "pack training data into tar shards",
}
SHELLS = ("bash", "zsh")
_FILES, _FOLDERS = ("FILE", "LIST", "MANIFEST", "CONFIG"), ("DIR", "FOLDER")  # in the usage


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments.pop(0) if arguments else "--help"
    if command in ("-h", "--help"):
        print(_usage())
        return EXIT_OK
    if command == "--version":
        print(f"asr {__version__}")
        return EXIT_OK
    if command == "completion":
        return _print_completion(arguments)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(COMMANDS)}"
        complain(f"found unknown command {command}, {hint}")
        return EXIT_ERROR
    result: int = importlib.import_module(f"asr.{command}").main(arguments)
    return result


def _usage() -> str:
    lines = [f"  asr {name:<12}{text}" for name, text in COMMANDS.items()]
    lines.append(f"  asr {'completion':<12}print shell completions: {', '.join(SHELLS)}")
    return "\n".join(
        ["usage: asr COMMAND ...", "", *lines, "", "asr COMMAND --help has the options of each."]
    )


def _print_completion(arguments: Sequence[str]) -> int:
    """Print a script that completes commands, their options, files and, of `train`, settings."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        found = " ".join(arguments) or "nothing"
        complain(f"completion: found {found}, wanted one of {', '.join(SHELLS)}")
        return EXIT_ERROR
    try:
        import shtab  # writes scripts for shells out of a parser
    except ImportError:
        complain("completion: needs the extra `completion`: pip install 'asr[completion]'")
        return EXIT_ERROR
    everything = argparse.ArgumentParser(prog="asr")
    commands = everything.add_subparsers()
    for name, text in COMMANDS.items():
        parser = importlib.import_module(f"asr.{name}").make_parser()
        _say_what_is_completed(parser, shtab)
        commands.add_parser(name, help=text, parents=[parser], add_help=False)
    print(shtab.complete(everything, arguments[0]))
    return EXIT_OK


def _say_what_is_completed(parser: Parser, shtab: Any) -> None:
    """Mark the options and arguments, also of commands below, that are files or folders."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _say_what_is_completed(command, shtab)
        elif action.metavar == "key=value":
            # Not in the parser itself: it would refuse values.
            action.choices = [f"{name}=" for name in parser.settings if "." in name]
        elif action.metavar in _FILES + _FOLDERS:
            kind = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
