"""The index of manifests: the same utterances as reading them all, and lines only when wanted."""

from __future__ import annotations

import gc
import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import DataConfig
from asr.index import ManifestIndex
from asr.manifest import (
    ManifestError,
    Utterance,
    prepare_text,
    read_manifest,
    reason_to_skip,
    write_manifest,
)

UTTERANCES = st.lists(
    st.builds(
        Utterance,
        audio_filepath=st.just("/far/away.wav"),
        duration=st.sampled_from([0.1, 1.0, 5.5, 30.0]),
        text=st.sampled_from(["open the door", "Mr. Müller, no. 5", "", "中文"]),
        speaker=st.text(),
        id=st.text(min_size=1),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(st.lists(UTTERANCES, min_size=1, max_size=3))
def test_same_as_reading_everything(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Utterance]]
) -> None:
    folder = tmp_path_factory.mktemp("manifests")
    names = [str(folder / f"{i}.jsonl") for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        write_manifest(name, part)
    data = DataConfig()
    everything = [prepare_text(u, data) for name in names for u in read_manifest(name)]
    index = ManifestIndex(names, data)
    assert list(index) == [u for u in everything if not reason_to_skip(u, data)]
    assert index.durations.tolist() == [u.duration for u in index]
    assert sum(index.left_out.values()) == len(everything) - len(index)
    assert index[:] == list(pickle.loads(pickle.dumps(index)))
    assert list(ManifestIndex(names, None)) == [u for name in names for u in read_manifest(name)]


def write_lines(path: Path, *texts: str) -> str:
    lines = [json.dumps({"audio_filepath": "a.wav", "duration": 1, "text": t}) for t in texts]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    return str(path)


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    index = ManifestIndex([write_lines(tmp_path / "m.jsonl", "one", "two")], DataConfig())
    assert [u.text for u in index] == ["one", "two"]
    assert index[-1].text == "two"
    assert index[0].audio_filepath == str(tmp_path / "a.wav")
    with pytest.raises(IndexError):
        index[2]


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "duration": 1, "text": "a"}\n{"text": 3}\n')
    with pytest.raises(ManifestError, match="m.jsonl, line 2: found no 'audio_filepath'"):
        ManifestIndex([str(path)], DataConfig())
    with pytest.raises(ManifestError, match="cannot be read .No such file"):
        ManifestIndex([str(tmp_path / "none.jsonl")], DataConfig())
    with pytest.raises(ManifestError, match="Is a directory"):
        ManifestIndex([str(tmp_path)], DataConfig())


def test_a_manifest_may_be_replaced_but_not_changed_while_it_is_used(tmp_path: Path) -> None:
    name = write_lines(tmp_path / "m.jsonl", "one", "two")
    index = ManifestIndex([name], DataConfig())
    os.replace(write_lines(tmp_path / "new.jsonl", "three"), name)
    assert [u.text for u in index] == ["one", "two"]
    index = ManifestIndex([name], DataConfig())
    Path(name).write_text("")
    with pytest.raises(ManifestError, match="m.jsonl, byte 0: is not JSON"):
        index[0]


def test_its_files_are_closed_with_it(tmp_path: Path) -> None:
    index = ManifestIndex([write_lines(tmp_path / "m.jsonl", "one")], DataConfig())
    copy = pickle.loads(pickle.dumps(index))
    files = [*index._files.values(), *(copy[:] and copy._files.values())]
    cycle = {"index": index, "copy": copy}
    cycle["cycle"] = cycle
    del index, copy, cycle
    gc.collect()
    assert len(files) == 2 and all(file.closed for file in files)
