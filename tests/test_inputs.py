"""Names on a command line to recordings."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path, PurePath

import numpy as np
import pytest
import soundfile

from asr.inputs import Input, InputError, choose_channels, find_inputs, read_list


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = "b.wav a.MP3 notes.txt .hidden.wav deep/er/c.flac deep/film.mkv .cache/x.wav"
    for name in names.split():
        path = tmp_path / "talks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd[1].wav").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names: str) -> list[tuple[str, str]]:
    inputs, problems = find_inputs(names)
    assert not problems
    return [(item.path, str(item.place)) for item in inputs]


def test_files_are_taken_as_they_are(talks: Path) -> None:
    assert found("talks/b.wav", "missing.wav", "talks/notes.txt", "odd[1].wav") == [
        ("talks/b.wav", "b.wav"),
        ("missing.wav", "missing.wav"),  # its turn to be complained about comes
        ("talks/notes.txt", "notes.txt"),
        ("odd[1].wav", "odd[1].wav"),
    ]


def test_folders_are_searched_through_and_through(talks: Path) -> None:
    assert found("talks") == [
        ("talks/a.MP3", "a.MP3"),
        ("talks/b.wav", "b.wav"),
        ("talks/deep/film.mkv", "deep/film.mkv"),
        ("talks/deep/er/c.flac", "deep/er/c.flac"),
    ]


def test_folders_with_links_and_pipes(talks: Path) -> None:
    """A link back to a folder above must not be followed for ever, nor a pipe be waited for."""
    before = find_inputs([str(talks)])
    inside = next(path for path in talks.rglob("*") if path.is_dir())
    (inside / "up").symlink_to(talks)
    (inside / "self").symlink_to(inside)
    os.mkfifo(inside / "pipe.wav")
    assert find_inputs([str(talks)]) == before
    (talks / "dangling.wav").symlink_to(talks / "nowhere")  # complains when its turn comes
    assert len(find_inputs([str(talks)])[0]) == len(before[0]) + 1


def test_patterns_that_no_shell_has_seen(talks: Path) -> None:
    assert found("talks/*.wav") == [("talks/b.wav", "b.wav")]
    assert found("talks/**/*.flac") == [("talks/deep/er/c.flac", "c.flac")]


def test_what_holds_nothing_does_not_stop_the_others(talks: Path) -> None:
    inputs, problems = find_inputs(["empty", "talks/b.wav", "*.ogg"])
    assert [item.path for item in inputs] == ["talks/b.wav"]
    assert problems == [
        "empty: found no sound file in this folder, wanted at least one",
        "*.ogg: found no file that matches, wanted at least one",
    ]


def test_lists_of_files(talks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (talks / "list").write_bytes(b"a.wav\r\n\n with space.wav \nod\xff d.wav")
    assert read_list("list") == ["a.wav", " with space.wav ", "od\udcff d.wav"]
    (talks / "list").write_bytes(b"two\nlines.wav\0b.wav\0")
    assert read_list("list") == ["two\nlines.wav", "b.wav"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x.wav\n")))
    assert read_list("-") == ["x.wav"]
    (talks / "list").write_bytes(b"\n")
    with pytest.raises(InputError, match="list: found no line, wanted a list of files"):
        read_list("list")
    with pytest.raises(InputError, match="nowhere: cannot be read"):
        read_list("nowhere")


def test_names_to_show() -> None:
    assert Input("od\udcff.wav", PurePath("x")).name == "od\\xff.wav"
    assert Input("a.wav", PurePath("a.wav"), 2).name == "a.wav channel 2"
    assert Input("-", PurePath("stdin")).name == "standard input"


def test_all_channels_are_inputs_of_their_own(talks: Path) -> None:
    soundfile.write(talks / "three.wav", np.zeros((9, 3)), 16000)
    inputs, _ = find_inputs(["three.wav", "talks/b.wav"])
    assert [item.channel for item in choose_channels(inputs, None, None)] == [None, None]
    assert [item.channel for item in choose_channels(inputs, 2, None)] == [2, 2]
    each = choose_channels(inputs, "all", None)
    assert [(item.path, item.channel) for item in each] == [
        ("three.wav", 1), ("three.wav", 2), ("three.wav", 3), ("talks/b.wav", None)
    ]  # fmt: skip
    with pytest.raises(InputError, match="standard input can be read only once"):
        choose_channels(find_inputs(["-"])[0], "all", None)
