"""Transcripts beside their references, as Markdown."""

from __future__ import annotations

from asr.report import transcripts_to_markdown


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
