"""Files of transcripts: names that never meet, whole or not at all, and what is finished."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asr.outputs
from asr.inputs import Input, InputError
from asr.outputs import JOURNAL, OutputFolder, output_stems
from asr.transcript import Segment, Transcript

TRANSCRIPT = Transcript((Segment(0.0, 1.0, "good morning"),), 2.0)


def stems(*places: str) -> list[str]:
    """Return stems of files that were named one by one, or, after a colon, inside a folder."""
    inputs = []
    for place in places:
        folder, _, rest = place.rpartition(":")
        path = f"{folder}/{rest}" if folder else rest
        inputs.append(Input(path, PurePath(rest if folder else os.path.basename(rest))))
    return [str(stem) for stem in output_stems(inputs)]


def test_names_are_as_short_as_they_can_be() -> None:
    assert stems("a.wav", "b.tar.mp3") == ["a", "b.tar"]
    assert stems("talks:a.wav", "talks:deep/a.wav") == ["a", "deep/a"]
    assert stems("a.wav", "a.mp3", "b.wav") == ["a.wav", "a.mp3", "b"]
    assert stems("x/a.wav", "y/a.wav", "y/b.wav") == ["x/a.wav", "y/a.wav", "b"]
    assert stems("x/a.wav", "x/a.wav") == ["a", "a"]
    assert output_stems([Input("a.wav", PurePath("a.wav"), n) for n in (1, 2)]) == [
        PurePath("a.channel1"),
        PurePath("a.channel2"),
    ]
    assert output_stems([]) == []


@given(
    st.lists(
        st.from_regex(r"\A([ab]/){0,2}[ab](\.(wav|mp3)){0,2}\Z"),
        min_size=1,
        max_size=9,
        unique=True,
    ),
    st.booleans(),
)
def test_no_two_recordings_share_a_name(paths: list[str], in_folder: bool) -> None:
    places = [f"in:{path}" if in_folder else path for path in paths]
    assert len(set(stems(*places))) == len(paths)


@pytest.fixture
def recording(tmp_path: Path) -> Input:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"sound")
    return Input(str(path), PurePath("deep/talk.wav"))


def open_folder(recording: Input, *formats: str, beam: int = 8) -> OutputFolder:
    folder = Path(recording.path).parent / "out"
    return OutputFolder(folder, [recording], formats or ("txt",), {"beam": beam})


def test_files_of_every_format(recording: Input, tmp_path: Path) -> None:
    folder = open_folder(recording, "txt", "json")
    folder.write(recording, TRANSCRIPT)
    names = sorted(path.name for path in (tmp_path / "out" / "deep").iterdir())
    assert names == ["talk.json", "talk.txt"]
    assert (tmp_path / "out/deep/talk.txt").read_text() == "good morning\n"
    assert json.loads((tmp_path / "out/deep/talk.json").read_text())["text"] == "good morning"


def test_a_file_that_cannot_be_written_leaves_what_was_there(
    recording: Input, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder(recording).write(recording, TRANSCRIPT)

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(asr.outputs, "format_transcript", fail)
    folder = open_folder(recording, beam=9)
    with pytest.raises(OSError, match="No space left"):
        folder.write(recording, TRANSCRIPT)
    (path,) = (tmp_path / "out" / "deep").iterdir()
    assert path.read_text() == "good morning\n"
    assert not open_folder(recording, beam=9).is_finished(recording)


def test_finished_is_what_was_done_with_the_same_settings_and_has_not_changed(
    recording: Input, tmp_path: Path
) -> None:
    assert not open_folder(recording).is_finished(recording)
    open_folder(recording).write(recording, TRANSCRIPT)
    assert open_folder(recording).is_finished(recording)
    assert not open_folder(recording, beam=4).is_finished(recording)
    assert not open_folder(recording, "txt", "srt").is_finished(recording)
    (tmp_path / "out/deep/talk.txt").unlink()
    assert not open_folder(recording).is_finished(recording)


@pytest.mark.parametrize("change", ["content", "date", "gone"])
def test_a_recording_that_changed_is_not_finished(recording: Input, change: str) -> None:
    open_folder(recording).write(recording, TRANSCRIPT)
    if change == "content":
        Path(recording.path).write_bytes(b"longer sound")
    elif change == "date":
        os.utime(recording.path, ns=(1, 1))
    else:
        Path(recording.path).unlink()
    assert not open_folder(recording).is_finished(recording)


def test_a_transcript_of_another_recording_is_not_overwritten(
    recording: Input, tmp_path: Path
) -> None:
    open_folder(recording).write(recording, TRANSCRIPT)
    other = Input(str(tmp_path / "else.wav"), recording.place)
    Path(other.path).write_bytes(b"sound")
    with pytest.raises(InputError, match="holds what was said in .*talk.wav, not in .*else.wav"):
        open_folder(other)
    Path(recording.path).unlink()  # moved: its transcript may be made anew
    assert not open_folder(other).is_finished(other)


def test_a_journal_that_was_cut_is_read_as_far_as_it_goes(recording: Input, tmp_path: Path) -> None:
    open_folder(recording).write(recording, TRANSCRIPT)
    with (tmp_path / "out" / JOURNAL).open("ab") as journal:
        journal.write(b'[1]\n"x"\n\xff\n{"output": "deep/ta')
    assert open_folder(recording).is_finished(recording)
    Path(recording.path).write_bytes(b"another sound")
    open_folder(recording).write(recording, TRANSCRIPT)  # in a line of its own
    assert open_folder(recording).is_finished(recording)


def test_standard_input_is_never_finished(tmp_path: Path) -> None:
    item = Input("-", PurePath("stdin"))
    folder = OutputFolder(tmp_path, [item], ("txt",), {})
    folder.write(item, TRANSCRIPT)
    assert (tmp_path / "stdin.txt").read_text() == "good morning\n"
    assert not OutputFolder(tmp_path, [item], ("txt",), {}).is_finished(item)
