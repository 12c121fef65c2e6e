"""Which recordings a user means: files, folders, patterns, lists of files, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import IO, Literal

from asr.names import printable
from asr.raw import RawFormat

SUFFIXES = frozenset(  # of the files that are taken from folders
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .w64 .m4a .m4b .mp4 .m4v .mov .webm "
    ".mkv .mka .aac .ac3 .avi .wma .wmv .3gp .amr .flv .mpg .mpeg .wv .aifc .snd .mp2 .ape .tta "
    ".mts .m2ts .ogv".split()
)
STDIN = "-"


class InputError(ValueError):
    """A user named something that holds no recording."""


@dataclass(frozen=True)
class Input:
    """One recording to be transcribed.

    Attributes:
        path: Of its file; "-" is standard input.
        place: Its path inside the folder that the user named, or the name of its file.
        channel: One of its channels, from 1 on; None takes the mean of all.
    """

    path: str
    place: PurePath
    channel: int | None = None

    @property
    def sound(self) -> str | IO[bytes]:
        """What is to be opened."""
        return standard_input() if self.path == STDIN else self.path

    @property
    def name(self) -> str:
        """What a user calls it, in one line; with its channel, if it is one of several."""
        name = self.source if self.path == STDIN else printable(self.path)
        return name if self.channel is None else f"{name} channel {self.channel}"

    @property
    def is_pipe(self) -> bool:
        """Tell whether it can be read only once."""
        return self.path == STDIN or (os.path.exists(self.path) and not os.path.isfile(self.path))

    @property
    def source(self) -> str:
        """What a user calls its file; a name that is not UTF-8 must not stop the program."""
        if self.path == STDIN:
            return "standard input"
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


def standard_input() -> IO[bytes]:
    """Return the bytes of standard input.

    Raises:
        InputError: It is closed.
    """
    if sys.stdin is None:
        raise InputError("-: standard input is closed, wanted something to read")
    return sys.stdin.buffer


def find_inputs(names: Iterable[str]) -> tuple[list[Input], list[str]]:
    """Find the recordings that names stand for, in their order.

    Args:
        names: Files as they are; folders, searched through and through for files with the suffix
            of sound; patterns such as "talks/**/*.mp3", where there is no file of that name; "-".

    Returns:
        The recordings, and a line for each folder or pattern without any.
    """
    inputs: list[Input] = []
    problems: list[str] = []
    for name in names:
        try:
            inputs += _find(name)
        except InputError as error:
            problems.append(str(error))
    return inputs, problems


def _find(name: str) -> Iterator[Input]:
    if not name:
        raise InputError("found an empty name, wanted a file")
    if name == STDIN:
        yield Input(STDIN, PurePath("stdin"))
    elif os.path.isdir(name):
        yield from _in_folder(name)
    elif os.path.lexists(name) or not glob.has_magic(name):
        yield Input(name, PurePath(os.path.basename(name) or name))
    else:
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise InputError(f"{name}: found no file that matches, wanted at least one")
        for match in matches:
            if not os.path.isdir(match):
                yield Input(match, PurePath(os.path.basename(match)))


def _in_folder(folder: str) -> Iterator[Input]:
    found = False
    visited = {_identity(folder)}  # a link may lead back to where it is
    for root, folders, files in os.walk(folder, followlinks=True):
        names = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in names:
            if (identity := _identity(os.path.join(root, name))) not in visited:
                visited.add(identity)
                folders.append(name)
        for file in sorted(files):
            path = Path(root, file)
            if os.path.exists(path) and not os.path.isfile(path):
                continue  # a named pipe would wait for somebody to write into it
            if path.suffix.lower() in SUFFIXES and not file.startswith("."):
                found = True
                yield Input(str(path), path.relative_to(folder))
    if not found:
        raise InputError(f"{folder}: found no sound file in this folder, wanted at least one")


def _identity(folder: str) -> tuple[int, int]:
    """Return what tells a folder from others, whatever it is called."""
    try:
        status = os.stat(folder)
    except OSError:
        return (0, 0)  # gone in the meantime
    return status.st_dev, status.st_ino


def read_list(path: str) -> list[str]:
    r"""Read a list of files, one a line or, as by `find -print0`, one after each zero byte.

    Args:
        path: Of the list; "-" is standard input. Relative names count from the working folder.

    Raises:
        InputError: It cannot be read or is empty.
    """
    try:
        content = standard_input().read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), wanted a list") from error
    separator = b"\0" if b"\0" in content else b"\n"
    names = [os.fsdecode(line.rstrip(b"\r")) for line in content.split(separator) if line.strip()]
    if not names:
        raise InputError(f"{path}: found no line, wanted a list of files")
    return names


def choose_channels(
    inputs: Sequence[Input], channel: int | Literal["all"] | None, raw: RawFormat | None
) -> list[Input]:
    """Take one channel of every input, or each of all as an input of its own.

    Raises:
        InputError: All channels of a pipe are wanted, which can be read only once.
    """
    if channel != "all":
        return [replace(item, channel=channel) for item in inputs]
    from asr.audio import AudioError, open_audio

    result = []
    for item in inputs:
        if item.is_pipe:
            raise InputError(f"--channel all: {item.name} can be read only once, wanted a file")
        try:
            if raw is not None:
                count = raw.num_channels
            else:
                with open_audio(item.path) as stream:
                    count = stream.num_channels
        except AudioError:
            result.append(item)  # its turn to complain comes
            continue
        result += [replace(item, channel=number) for number in range(1, count + 1)]
    return result
