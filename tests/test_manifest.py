"""Manifests: what is written is read again from anywhere, and errors name file and line."""

import json
import math
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asr.config import Config
from asr.manifest import (
    ManifestError,
    ManifestFile,
    Utterance,
    check_overlap,
    check_utterances,
    main,
    read_manifest,
    write_manifest,
)

GOOD = {"audio_filepath": "a/b.wav", "duration": 1.5, "text": "open the door"}


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def test_read_fills_in_id_and_folder(tmp_path):
    path = write_lines(
        tmp_path / "m.jsonl", GOOD, "", GOOD | {"id": "x", "speaker": "s", "lang": 1}
    )
    audio_filepath = str(tmp_path / "a" / "b.wav")
    assert read_manifest(path) == [
        Utterance(audio_filepath, 1.5, "open the door", "", "b"),
        Utterance(audio_filepath, 1.5, "open the door", "s", "x"),
    ]
    assert read_manifest(str(path)) == read_manifest(path)


def test_absolute_paths_stay(tmp_path):
    path = write_lines(tmp_path / "m.jsonl", GOOD | {"audio_filepath": "/far/away.flac"})
    assert read_manifest(path)[0].audio_filepath == "/far/away.flac"


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert len(read_manifest(path)) == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{broken", "is not JSON"),
        ("[1, 2]", "found a list, wanted a JSON object"),
        ({"duration": 1, "text": ""}, "found no 'audio_filepath' among ['duration', 'text']"),
        (GOOD | {"audio_filepath": ""}, "audio_filepath is empty"),
        (GOOD | {"text": 3}, "text is 3, wanted a string"),
        (GOOD | {"text": None}, "wanted a string"),
        (GOOD | {"speaker": 7}, "speaker is 7, wanted a string"),
        ({"audio_filepath": "a", "text": ""}, "found no 'duration'"),
        (GOOD | {"duration": "2"}, "duration is '2', wanted a positive number of seconds"),
        (GOOD | {"duration": True}, "duration is True"),
        (GOOD | {"duration": 0}, "duration is 0"),
        (GOOD | {"duration": -1.0}, "duration is -1.0"),
        (GOOD | {"duration": math.nan}, "duration is nan"),
        (GOOD | {"duration": math.inf}, "duration is inf"),
    ],
)
def test_errors_name_file_line_and_what_was_wanted(tmp_path, line, expected):
    path = write_lines(tmp_path / "m.jsonl", GOOD, line)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_are_not_text(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(ManifestError, match="line 1: is not JSON"):
        read_manifest(path)


def test_missing_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"cannot be read \(No such file"):
        read_manifest(tmp_path / "no.jsonl")
    with pytest.raises(ManifestError, match="Is a directory"):
        read_manifest(tmp_path)


def test_paths_are_written_relative_where_they_can_be(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"
    inside = Utterance(str(folder / "audio" / "a.wav"), 1.0, "a", "", "a")
    outside = Utterance(str(tmp_path / "corpus2" / "b.wav"), 1.0, "b", "", "b")
    write_manifest(folder / "m.jsonl", [inside, outside])
    written = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    assert [values["audio_filepath"] for values in written] == [
        "audio/a.wav",
        outside.audio_filepath,
    ]
    assert read_manifest(folder / "m.jsonl") == [inside, outside]
    monkeypatch.chdir(tmp_path)  # paths relative to the working directory are found again
    write_manifest("corpus/n.jsonl", [Utterance("corpus/audio/a.wav", 1.0, "a", "", "a")])
    assert json.loads(Path("corpus/n.jsonl").read_text())["audio_filepath"] == "audio/a.wav"
    assert read_manifest("corpus/n.jsonl")[0].audio_filepath == "corpus/audio/a.wav"


def test_a_failed_write_leaves_the_old_manifest_and_nothing_else(tmp_path):
    path = tmp_path / "m.jsonl"
    write_manifest(path, [Utterance("a.wav", 1.0, "a")])
    before = path.read_bytes()

    def broken():
        yield Utterance("b.wav", 1.0, "b")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_manifest(path, broken())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.jsonl"]


@given(
    st.lists(
        st.builds(
            Utterance,
            audio_filepath=st.text(min_size=1).filter(lambda s: "\0" not in s).map("/x/a".__add__),
            duration=st.floats(1e-3, 1e5),
            text=st.text(),
            speaker=st.text(),
            id=st.text(min_size=1),
        ),
        max_size=5,
    )
)
def test_round_trip(tmp_path_factory, utterances):
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    write_manifest(path, utterances)
    expected = [os.path.abspath(utterance.audio_filepath) for utterance in utterances]
    got = read_manifest(path)
    assert [utterance.audio_filepath for utterance in got] == expected
    for before, after in zip(utterances, got, strict=True):
        assert (before.duration, before.text, before.speaker, before.id) == (
            after.duration,
            after.text,
            after.speaker,
            after.id,
        )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a folder with a second and a half of noise in two files."""
    noise = np.random.default_rng(0).normal(0, 0.1, 24000)
    for name in ("b", "c"):
        (tmp_path / "a").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "a" / f"{name}.wav", noise, 16000)
    return tmp_path


def test_check_finds_nothing_in_a_good_manifest(corpus, capsys):
    path = write_lines(corpus / "m.jsonl", GOOD, GOOD | {"audio_filepath": "a/c.wav"})
    assert main(["check", str(path)]) == 0
    assert "2 utterances, 0.00 h, 0 speakers\nnothing found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"audio_filepath": "a/none.wav"}, "skipped: audio that cannot be read: 1"),
        ({"duration": 2.5}, "wrong duration: 1\n    b: manifest says 2.50 s, the file 1.50 s"),
        ({"text": "!"}, "skipped: empty text: 1"),
        ({"duration": 0.1}, "skipped: shorter than 0.3 s: 1"),
        ({"duration": 99.0}, "skipped: longer than 20 s: 1"),
        ({"text": "too long a text for so little time as this is"}, "CTC leaves it out: 1"),
    ],
)
def test_check_names_what_is_wrong(corpus, capsys, change, expected):
    path = write_lines(corpus / "m.jsonl", GOOD | change)
    assert main(["check", str(path)]) == 1
    assert expected in capsys.readouterr().out


def test_check_takes_the_alphabet_of_a_configuration(corpus, capsys):
    path = write_lines(corpus / "m.jsonl", GOOD | {"text": "ab zz cx"})
    config = corpus / "c.toml"
    config.write_text('[data]\nalphabet = "abc "\n', encoding="utf-8")
    assert main(["check", str(path), "--config", str(config)]) == 1
    out = capsys.readouterr().out
    assert "skipped: characters outside the alphabet: 1\n    b xz\n1 problems found" in out


def test_check_finds_what_repeats(corpus, capsys):
    one = write_lines(corpus / "one.jsonl", GOOD | {"speaker": "s"}, GOOD | {"speaker": "s"})
    two = write_lines(corpus / "two.jsonl", GOOD | {"speaker": "s", "id": "other"})
    assert main(["check", str(one), str(two), "--examples", "1"]) == 1
    out = capsys.readouterr().out
    assert "the same id twice: 1" in out
    assert f"the same recording twice: 1\n    {corpus / 'a' / 'b.wav'}: b and b\n" in out
    assert "the same speaker in several manifests: 1\n    s: " in out
    assert "the same recording in several manifests: 1" in out
    assert out.endswith("4 problems found\n")


def test_check_reports_user_errors_in_one_line(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    errors = capsys.readouterr().err
    assert "none.jsonl: cannot be read" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(("max_files", "looked_at"), [(0, 10), (1, 1), (4, 4), (9, 5), (99, 10)])
def test_check_looks_into_at_most_so_many_files(max_files: int, looked_at: int) -> None:
    utterances = [Utterance(f"/nowhere/{i}.wav", 1.0, "a", "", f"u{i}") for i in range(10)]
    problems = check_utterances(utterances, Config(), max_files)
    assert len(problems["skipped: audio that cannot be read"]) == looked_at


def test_check_does_not_keep_a_manifest_in_memory(tmp_path):
    """A line is read when its turn comes, and of each only hashes are kept."""
    names = [f"speaker{n % 50}" for n in range(20_000)]
    lines = (
        json.dumps({"audio_filepath": f"{n}.wav", "duration": 2.0, "text": "a" * 200, "speaker": s})
        for n, s in enumerate(names)
    )
    paths = [str(tmp_path / f"{part}.jsonl") for part in ("train", "dev")]
    content = "\n".join(lines)
    Path(paths[0]).write_text(content)
    Path(paths[1]).write_text(content.split("\n", 1)[0].replace('"0.wav"', '"other.wav"'))
    files = {path: ManifestFile(path) for path in paths}
    config = Config()
    tracemalloc.start()
    overlap = check_overlap(files)
    problems = check_utterances(files[paths[0]], config, max_files=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert overlap == {
        "the same speaker in several manifests": [f"speaker0: {paths[1]}, {paths[0]}"]
    }
    assert set(problems) == {
        "skipped: audio that cannot be read",
        "text too long for its audio: CTC leaves it out",
    }
    assert len(problems["text too long for its audio: CTC leaves it out"]) == 20_000
    lines_of_problems = 20_000 * 130  # bytes; the utterances are six times as much
    assert peak < lines_of_problems + 1_500_000
