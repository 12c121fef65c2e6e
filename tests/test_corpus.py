"""Recordings as people have them: folders and tables, and the parts they are split into."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr.corpus import find_recordings, pick_groups, read_table
from asr.manifest import main, read_manifest

TONE = [0.1, -0.1] * 4000  # half a second


def add(folder: Path, name: str, text: str | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, TONE, 16000)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


def test_folder_with_transcripts_beside(tmp_path: Path) -> None:
    add(tmp_path, "b.WAV", "\ufeffOpen\r\n the  door \n")
    add(tmp_path, "a.flac", "two")
    add(tmp_path, "c.wav")
    add(tmp_path, "d.wav", " ")
    add(tmp_path, "e.wav").with_suffix(".txt").write_bytes(b"\xff\xff")
    (tmp_path / "notes.txt").write_text("no sound")
    found = list(find_recordings(tmp_path))
    texts = [r.text for r in found if not isinstance(r, str)]
    assert texts == ["two", "Open the door"]
    problems = "\n".join(r for r in found if isinstance(r, str))
    assert "c.wav: its transcript c.txt cannot be read (No such file" in problems
    assert "d.wav: its transcript is empty" in problems
    assert "e.wav: its transcript e.txt is not UTF-8" in problems


@pytest.mark.parametrize(
    ("names", "speakers"),
    [
        (("clips/1.wav", "clips/2.wav"), ["", ""]),
        (("anna/1.wav", "bob/x/2.wav"), ["anna", "bob"]),
    ],
)
def test_sub_folders_are_speakers(
    tmp_path: Path, names: tuple[str, ...], speakers: list[str]
) -> None:
    for name in names:
        add(tmp_path, name, "a")
    assert [getattr(r, "speaker", None) for r in find_recordings(tmp_path)] == speakers


COMMON_VOICE = 'client_id\tpath\tsentence\tup_votes\nann\tone.mp3\tHe said "no, go.\t2\n'


@pytest.mark.parametrize(
    ("name", "table", "file", "expected"),
    [
        ("t.tsv", COMMON_VOICE, "clips/one.mp3", ('He said "no, go.', "ann")),
        ("t.csv", "file,text\na.wav,'one, two'\n".replace("'", '"'), "a.wav", ("one, two", "")),
        ("t.csv", "a.wav,one\n", "a.wav", ("one", "")),
        ("t.csv", "a.wav;one, two\n", "a.wav", ("one, two", "")),
        ("t.txt", "a.wav\tone, two, three\n", "a.wav", ("one, two, three", "")),
        ("t.csv", "LJ001|Printing, 1|Printing, one\n", "wavs/LJ001.wav", ("Printing, 1", "")),
        ("t.csv", "\ufeffText,Speaker,Filename\none,eve,a.wav\n\n", "a.wav", ("one", "eve")),
    ],
)
def test_tables(
    tmp_path: Path, name: str, table: str, file: str, expected: tuple[str, str]
) -> None:
    add(tmp_path / "c", file)
    (tmp_path / name).write_text(table, encoding="utf-8")
    (recording,) = read_table(tmp_path / "c", tmp_path / name)
    assert not isinstance(recording, str)
    assert recording.path == str(tmp_path / "c" / file)
    assert (recording.text, recording.speaker) == expected


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    add(tmp_path, "a.wav")
    (tmp_path / "t.csv").write_text("file,text\nno.wav,x\na.wav\na.wav,\n\na.wav,y\n")
    *problems, good = read_table(tmp_path, tmp_path / "t.csv")
    assert not isinstance(good, str) and good.text == "y"
    table = tmp_path / "t.csv"
    assert problems == [
        f"{table}, line 2: found no file 'no.wav' under {tmp_path}",
        f"{table}, line 3: found 1 columns, wanted a file and a text",
        f"{tmp_path / 'a.wav'}: its transcript is empty",
    ]


@given(
    st.dictionaries(st.text(), st.floats(0.1, 1000), min_size=2, max_size=30),
    st.floats(0.01, 0.99),
)  # fmt: skip
def test_picked_groups_are_neither_none_nor_all(seconds: dict[str, float], part: float) -> None:
    picked = pick_groups(seconds, part)
    assert picked and picked < set(seconds)
    assert picked == pick_groups(dict(reversed(seconds.items())), part)


def test_picked_groups_have_about_their_part() -> None:
    seconds = {f"speaker{i}": 50.0 + i for i in range(100)}
    assert 0.1 <= sum(seconds[n] for n in pick_groups(seconds, 0.1)) / sum(seconds.values()) < 0.12


def test_create_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for speaker in ("anna", "bob", "eve"):
        for number in range(3):
            add(tmp_path / "in", f"{speaker}/{number}.wav", "go")
    (tmp_path / "in" / "anna" / "0.wav").write_bytes(b"RIFF")
    output = tmp_path / "out" / "mine.jsonl"
    arguments = ["create", str(tmp_path / "in"), "--output", str(output)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "left out: 1\n" in out and "anna/0.wav" in out
    assert f"{output}: 8 utterances, 0.00 h, 3 speakers\n" in out
    utterances = read_manifest(output)
    assert [u.id for u in utterances][:2] == ["anna/1", "anna/2"]
    assert all(u.duration == 0.5 and Path(u.audio_filepath).exists() for u in utterances)
    assert main([*arguments, "--split", "0.6"]) == 0
    parts = [output.with_suffix(f".{part}.jsonl") for part in ("train", "dev")]
    speakers = [{u.speaker for u in read_manifest(part)} for part in parts]
    assert speakers[0] | speakers[1] == {"anna", "bob", "eve"} and not speakers[0] & speakers[1]
    assert main(["check", *map(str, parts)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: found no such folder"),
        (["."], "found no sound file, wanted .wav, "),
        ([".", "--table", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        ([".", "--table", "one.csv"], "one.csv: found 1 columns, wanted a file and a text"),
        ([".", "--table", "two.csv"], "two.csv: found 0 usable recordings with transcripts"),
        ([".", "--split", "9"], "--split: found 9.0, wanted a number between 0 and 1"),
    ],
)
def test_user_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("one.csv").write_text("a.wav\n")
    Path("two.csv").write_text("a.wav,b\n")
    assert main(["create", *arguments, "--output", "m.jsonl"]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1 and not Path("m.jsonl").exists()
