"""Characters to ids and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.config import ENGLISH_ALPHABET
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(ENGLISH_ALPHABET)


@given(st.text(alphabet=ENGLISH_ALPHABET))
def test_decode_undoes_encode(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(2 < i < TOKENIZER.size for i in ids)


def test_special_ids_are_dropped() -> None:
    assert TOKENIZER.decode([1, 0, *TOKENIZER.encode("ab"), 2]) == "ab"


def test_foreign_character_is_named() -> None:
    with pytest.raises(ValueError, match="found character 'ü'"):
        TOKENIZER.encode("für")


def test_file_round_trip(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "t.json")
    assert CharTokenizer.load(tmp_path / "t.json").alphabet == ENGLISH_ALPHABET


@pytest.mark.parametrize("content", ["", "{}", '{"type": "words"}', "\x00"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer"):
        CharTokenizer.load(tmp_path / "t.json")


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_alphabet_must_be_a_set(alphabet: str) -> None:
    with pytest.raises(ValueError, match="alphabet"):
        CharTokenizer(alphabet)
