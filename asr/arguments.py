"""What the parsers of all programs have in common: errors of one line, hints, exit codes."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from asr.names import printable

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 0, 2, 130, 141

_NEAR_OPTION, _NEAR_SETTING = 0.5, 0.8  # how alike, 0 to 1, a name must be to be named
_CHOICE = re.compile(r"(?:argument (.+): )?invalid choice: '?(.*?)'? \(choose from (.*)\)", re.S)


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, and names the nearest option.

    Args:
        settings: Names that are given as ``name=value``, which someone may mean by ``--name``.
        parser_settings: As for `argparse.ArgumentParser`.
    """

    def __init__(self, *, settings: Iterable[str] = (), **parser_settings: Any) -> None:
        parser_settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation that works today may be ambiguous tomorrow.
        super().__init__(allow_abbrev=False, **parser_settings)
        self.settings = tuple(settings)

    def add_subparsers(self, **settings: Any) -> Any:
        """Add commands, each with a parser of this kind."""
        settings.setdefault("parser_class", _CommandParser)
        return super().add_subparsers(**settings)

    def error(self, message: str) -> NoReturn:
        """Print one line and end the program."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = self._explain_unknown(unknown.split()[0].split("=")[0])
        elif choice := _CHOICE.fullmatch(message):
            message = _explain_choice(*choice.groups())
        complain(f"{message} (--help lists the options)")
        raise SystemExit(EXIT_ERROR)

    def _explain_unknown(self, option: str) -> str:
        if not option.startswith("-"):
            return f"found {option}, wanted no more arguments"
        name = option.lstrip("-").replace("-", "_")
        if near := difflib.get_close_matches(name, self.settings, 1, _NEAR_SETTING):
            return f"found unknown option {option}, did you mean {near[0]}=VALUE?"
        near = difflib.get_close_matches(option, self._option_string_actions, 1, _NEAR_OPTION)
        return f"found unknown option {option}" + (f", did you mean {near[0]}?" if near else "")


class _CommandParser(Parser):
    """The parser of a command, which complains itself: the one above knows other options."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; whatever is left over is an error here."""
        found, extras = super().parse_known_args(args, namespace)
        if extras:
            self.error(f"unrecognized arguments: {' '.join(extras)}")
        return found, extras


def _explain_choice(argument: str | None, found: str, wanted: str) -> str:
    """Return argparse's message about a value that is none of some, with the nearest."""
    names = [name.strip(" '") for name in wanted.split(",")]
    near = difflib.get_close_matches(found, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(names)}"
    return f"{f'argument {argument}: ' if argument else ''}found {found!r}, {hint}"


def complain(message: object) -> None:
    """Write one line about a user's error to stderr."""
    text = printable(str(message).replace("\n", " "))
    print("asr:", text, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """Read the value of an option: a whole number above 0."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number above 0")
    return number


def number(wanted: str, low: float = -math.inf, high: float = math.inf) -> Callable[[str], float]:
    """Return what reads the value of an option: a finite number from ``low`` to ``high``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted {wanted}")
        return value

    return read
