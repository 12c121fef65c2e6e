"""What a search over words needs, read in a thread before torch is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.checkpoint import CheckpointError, load_model
from asr.language_model import LanguageModelError
from asr.vocabulary import Vocabulary
from asr.word_parts import DEFAULT_MODEL, LEXICON, WORD_MODEL, WordParts, start_loading

pytestmark = pytest.mark.skipif(
    not (DEFAULT_MODEL / WORD_MODEL).is_file(), reason="the package holds no model of words"
)


def test_the_thread_reads_what_the_model_has(tmp_path: Path) -> None:
    bundle = load_model(words=start_loading(None))
    assert bundle.lexicon and bundle.word_model and bundle.word_decoder and bundle.vocabulary
    assert bundle.word_decoder.vocabulary is bundle.vocabulary
    expected = Vocabulary.of_model(bundle.lexicon, bundle.word_model)
    assert bundle.vocabulary.texts == expected.texts
    for ours, theirs in zip(bundle.vocabulary.forest.tables, expected.forest.tables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert start_loading(tmp_path).result() == WordParts()


def test_what_is_damaged_is_told_to_who_asks(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(DEFAULT_MODEL, folder)
    (folder / WORD_MODEL).write_bytes((folder / WORD_MODEL).read_bytes()[:5000])
    words = start_loading(folder)
    assert isinstance(words.exception(), LanguageModelError)
    with pytest.raises(CheckpointError, match="damaged model directory: .*of words"):
        load_model(folder, words=words)
    (folder / WORD_MODEL).unlink()
    parts = start_loading(folder).result()
    assert parts.lexicon is not None and parts.model is None and parts.vocabulary is None
    assert (folder / LEXICON).is_file()


def test_nothing_waits_for_torch() -> None:
    program = (
        "import sys; from asr.word_parts import start_loading; "
        "assert start_loading(None).result().vocabulary; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 0, "torch was imported"


def test_a_program_of_its_own_starts_without_linear_algebra() -> None:
    program = """
import sys, threading
from asr.word_parts import start_loading
alone = sys.argv[1] == "alone"
assert start_loading(None, alone).result().vocabulary
for thread in threading.enumerate():
    if thread.name.startswith("asr-words"):
        thread.join()
assert "numba.np.arraymath" in sys.modules
print("scipy.linalg" in sys.modules)
import scipy.linalg
print(scipy.linalg.norm([3.0, 4.0]))
"""
    for way, loaded in (("alone", "False"), ("beside others", "True")):
        command = [sys.executable, "-c", program, way]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [loaded, "5.0"]
