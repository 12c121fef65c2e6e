"""Transcripts beside their references, as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.report import transcripts_to_markdown, write_between


def test_errors_are_bold() -> None:
    table = transcripts_to_markdown(
        [("u1", "the cat sat down", "the hat sat"), ("u2", "yes", "oh yes"), ("u3", "no", "no")]
    )
    assert table.splitlines()[2:] == [
        "| u1 | the **cat** sat **down** | the **hat** sat **–** | 50 |",
        "| u2 | **–** yes | **oh** yes | 100 |",
        "| u3 | no | no | 0 |",
    ]


def test_signs_of_markdown_are_shown_as_they_are() -> None:
    (row,) = transcripts_to_markdown([("a|b", "x_y <z>", "x_y *z*")]).splitlines()[2:]
    assert row == "| a\\|b | x\\_y **&lt;z>** | x\\_y **\\*z\\*** | 50 |"
    (row,) = transcripts_to_markdown([("u", "", "")]).splitlines()[2:]
    assert row == "| u |  |  | 0 |"


def test_a_page_is_only_changed_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before <b>old<e> after\n", encoding="utf-8")
    write_between(page, "<b>", "<e>", "new")
    assert page.read_text(encoding="utf-8") == "before <b>\n\nnew\n\n<e> after\n"
    for text in ("no marks", "<e> <b>", "<b> <b> <e>"):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="page.md: wanted one line '<b>' and, after it,"):
            write_between(page, "<b>", "<e>", "new")
        assert page.read_text(encoding="utf-8") == text
