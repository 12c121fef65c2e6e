"""Transcripts beside their references, as Markdown."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr.breakdown import breakdown_to_markdown, describe_breakdown
from asr.report import transcripts_to_markdown, write_between
from asr.score import score_utterances


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


def test_rates_by_length_and_by_speaker() -> None:
    score = score_utterances(
        [
            ("a", "one two three four", "one two three for"),
            ("b", "one two", "one two"),
            ("c", "one two", "won two"),
            ("d", "one two three four", "one"),
            ("e", "", "one"),
        ]
    )
    durations = {"a": 4.999, "b": 5.0, "c": 9.9996, "d": 15.0, "e": 12.0}
    speakers = {"a": "anna", "b": "anna", "c": "b_b", "d": "carl", "e": "dora"}
    found = describe_breakdown(score, durations, speakers)
    rows = [(r["from"], r["to"], r["utterances"], r["wer"]) for r in found["by_length"]]
    # "c" counts as 10 s, as a hypotheses file shows it; its part has a word only because of it.
    assert rows == [(0, 5, 1, 0.25), (5, 10, 1, 0.0), (10, 15, 2, 1.0), (15, None, 1, 0.75)]
    intervals = [row["wer_interval"] for row in found["by_length"]]
    assert intervals == [[0.25, 0.25], [0.0, 0.0], None, [0.75, 0.75]], "one draw has no word"
    spread = found["by_speaker"]
    assert spread["speakers"] == 3, "nobody can say how often an error is made in no word"
    assert (spread["lowest"], spread["best"]) == (pytest.approx(1 / 6), "anna")
    assert (spread["lower_quartile"], spread["median"]) == (pytest.approx(1 / 3), 0.5)
    assert (spread["highest"], spread["worst"]) == (0.75, "carl")
    assert spread["each"]["anna"] == {
        "utterances": 2,
        "reference_words": 6,
        "errors": 1,
        "wer": pytest.approx(1 / 6),
    }
    assert spread["each"]["dora"]["wer"] is None
    text = "\n".join(breakdown_to_markdown(found))
    assert "| under 5 s | 1 | 4 | 25.00 (25.00–25.00) |" in text
    assert "| 10–15 s | 2 | 2 | 100.00 (–) |" in text
    assert "| 15 s and more | 1 | 4 | 75.00 (75.00–75.00) |" in text
    assert "| 3 | 16.67 (anna) | 33.33 | 50.00 | 62.50 | 75.00 (carl) |" in text


def test_without_speakers_there_is_no_table_of_them() -> None:
    score = score_utterances([("a", "one", "one"), ("b", "two", "too")])
    durations = {"a": 1.0, "b": 2.0}
    found = describe_breakdown(score, durations, {"a": "", "b": ""})
    assert list(found) == ["by_length"]
    assert not any("speaker" in line for line in breakdown_to_markdown(found))
    assert breakdown_to_markdown({"wer": 0.5}) == [], "a summary made before there were any"
    found = describe_breakdown(score, durations, {"a": "x|y", "b": ""})
    assert found["by_speaker"]["utterances_without_speaker"] == 1
    assert "| 1 | 0.00 (x\\|y) |" in "\n".join(breakdown_to_markdown(found))
