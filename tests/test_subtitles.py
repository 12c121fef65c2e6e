"""Subtitles and tables: read back by parsers of their own, and readable."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.subtitles import FORMATS, Cue, format_transcript, make_cues
from asr.transcript import Alternative, Segment, Transcript, Word


def transcript_of(
    text: str, pace: float = 0.3, pauses: dict[int, float] | None = None
) -> Transcript:
    """Say a word every `pace` seconds, with pauses behind some."""
    time, words = 0.5, []
    for number, word in enumerate(text.split()):
        words.append(Word(word, time, time + pace, 0.5))
        time += pace + (pauses or {}).get(number, 0.0)
    return Transcript((Segment(0.0, time, text, tuple(words)),), time + 1.0)


def parse_srt(content: str) -> list[Cue]:
    cues = []
    for number, block in enumerate(content.strip("\n").split("\n\n"), start=1):
        index, times, *lines = block.split("\n")
        assert int(index) == number
        found = re.fullmatch(
            r"(\d\d):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d):([0-5]\d):([0-5]\d),(\d{3})", times
        )
        assert found and lines
        a, b, c, d, e, f, g, h = map(int, found.groups())
        start, end = ((a * 60 + b) * 60 + c) * 1000 + d, ((e * 60 + f) * 60 + g) * 1000 + h
        cues.append(Cue(start, end, tuple(lines)))
    return cues


def parse_vtt(content: str) -> list[Cue]:
    header, *blocks = content.strip("\n").split("\n\n")
    assert header == "WEBVTT"
    numbered = [
        f"{number}\n{block.replace('.', ',', 2)}" for number, block in enumerate(blocks, start=1)
    ]
    for block in blocks:
        assert not re.search(r"<|>|&(?!amp;|lt;|gt;)", block.split("\n", 1)[1])
    plain = "\n\n".join(numbered).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return parse_srt(plain) if blocks else []


def check_cues(cues: list[Cue], transcript: Transcript) -> None:
    text = " ".join(" ".join(segment.text.split()) for segment in transcript.segments)
    shown = " ".join(line for cue in cues for line in cue.lines)
    assert shown.replace(" ", "") == text.replace(" ", "")
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
        assert 0 <= cue.start < cue.end <= max(cue.start + 7000, cue.start + 1)
    assert all(a.end <= b.start for a, b in pairwise(cues))


letters = st.text("abcdefghij&<>'", min_size=1, max_size=12)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    time, segments = 0.0, []
    for texts in draw(st.lists(st.lists(letters, max_size=25), max_size=4)):
        start, words = time, []
        for text in texts:
            seconds = draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 9.0]))
            words.append(Word(text, time, time + seconds))
            time += seconds + draw(st.sampled_from([0.0, 0.0, 0.1, 0.7, 3.0]))
        known = draw(st.booleans())
        segments.append(Segment(start, time, " ".join(texts), tuple(words) if known else ()))
    return Transcript(tuple(segments), time)


@given(transcripts())
@settings(deadline=None, max_examples=200)
def test_any_transcript_becomes_valid_cues(transcript: Transcript) -> None:
    cues = make_cues(transcript)
    check_cues(cues, transcript)
    vtt, srt = format_transcript(transcript, "vtt"), format_transcript(transcript, "srt")
    assert parse_vtt(vtt) == cues
    assert (parse_srt(srt) if srt else []) == cues
    for content in (vtt, srt):
        assert "\n\n\n" not in content and (not content or content.endswith("\n"))


def test_cues_are_readable_where_the_speech_allows_it() -> None:
    text = (
        "and mister john dashwood had then leisure to consider how much there might be prudently "
        "in his power to do for them he was not an ill disposed young man unless to be rather "
        "cold hearted and rather selfish is to be ill disposed but he was in general well respected"
    )
    transcript = transcript_of(text, pauses={21: 0.6, 29: 0.5, 43: 0.5})
    cues = make_cues(transcript)
    check_cues(cues, transcript)
    for cue in cues:
        seconds = (cue.end - cue.start) / 1000
        assert 1.0 <= seconds <= 7.0
        assert len(" ".join(cue.lines)) / seconds <= 20
        if len(cue.lines) == 2:
            assert abs(len(cue.lines[0]) - len(cue.lines[1])) <= 12
    assert all(b.start - a.end >= 80 for a, b in pairwise(cues))
    last_words = [cue.lines[-1].split()[-1] for cue in cues]
    assert {"them", "man", "disposed"} <= set(last_words)  # at the pauses


def test_a_lone_word_stays_long_enough() -> None:
    [cue] = make_cues(Transcript((Segment(0, 5, "yes", (Word("yes", 1.0, 1.2),)),), 5.0))
    assert cue == Cue(1000, 2000, ("yes",))
    # But not into the next one.
    words = (Word("yes", 1.0, 1.2), Word("no" * 40, 1.5, 6.0))
    first, second = make_cues(Transcript((Segment(0, 9, "x", words),), 9.0))
    assert first.end <= second.start - 80 + 1 or second.lines[0].startswith("no")


def test_breaks_do_not_part_what_belongs_together() -> None:
    text = (
        "he walked slowly along the bank of the river and thought about the letter that his sister "
        "had written to him in the spring before the house was sold and the garden was given to a "
        "man from the north who did not know the name of a single flower in it"
    )
    cues = make_cues(transcript_of(text))
    check_cues(cues, transcript_of(text))
    ends = [line.split()[-1] for cue in cues for line in cue.lines]
    assert len(ends) >= 6
    assert not set(ends) & {"the", "a", "of", "to", "his", "and", "that", "was", "had", "in"}


def test_punctuation_is_where_a_reader_rests() -> None:
    text = "Well, I never saw it coming. It was dark, and nobody had told us; we just went home."
    cues = make_cues(transcript_of(text))
    assert [cue.lines for cue in cues] == [
        ("Well, I never saw it coming.",),
        ("It was dark, and nobody had told us;", "we just went home."),
    ]


def test_cues_linger_and_do_not_flicker() -> None:
    words = [Word("one", 1.0, 2.2), Word("two", 5.0, 6.2), Word("three", 6.5, 8.1)]
    cues = make_cues(Transcript((Segment(0, 9, "one two three", tuple(words)),), 8.3))
    assert [" ".join(cue.lines) for cue in cues] == ["one", "two three"]
    assert cues[0].end == 2600  # stays a moment
    assert cues[1].end == 8300  # but not longer than the recording
    words[2] = Word("three", 7.1, 14.0)  # too long for one cue
    first, second = make_cues(Transcript((Segment(5, 20, "x", tuple(words[1:])),), 20.0))
    assert second.start - first.end == 80  # not 500 of an empty screen


def test_long_pauses_are_not_bridged() -> None:
    cues = make_cues(transcript_of("one two three four five six", pauses={2: 3.0}))
    assert [cue.lines for cue in cues] == [("one two three",), ("four five six",)]
    assert cues[0].end <= 2000


def test_words_without_times_share_those_of_their_segment() -> None:
    transcript = Transcript((Segment(10.0, 20.0, "word " * 30),), 25.0)
    cues = make_cues(transcript)
    assert len(cues) >= 2 and cues[0].start == 10_000 and cues[-1].end <= 25_000
    assert all(len(line) <= 42 for cue in cues for line in cue.lines)


def test_times_beyond_an_hour() -> None:
    transcript = Transcript(
        (Segment(3661.5, 3663.0, "late", (Word("late", 3661.5, 3662.75),)),), 9e3
    )
    assert "01:01:01,500 --> 01:01:03,150" in format_transcript(transcript, "srt")
    assert "01:01:01.500 --> 01:01:03.150" in format_transcript(transcript, "vtt")


def test_webvtt_escapes_what_would_be_markup() -> None:
    transcript = transcript_of("a<b>&c --> d")
    content = format_transcript(transcript, "vtt")
    assert "a&lt;b&gt;&amp;c --&gt; d" in content
    assert parse_vtt(content) == make_cues(transcript)


def test_tables() -> None:
    transcript = Transcript(
        (
            Segment(0.5, 2.0, "good day", (Word("good", 0.5, 0.8, 0.25), Word("day", 1.0, 1.5))),
            Segment(3.0, 4.0004, "to you"),
        ),
        5.0,
    )
    tsv = format_transcript(transcript, "tsv", "x")
    assert tsv == "start\tend\ttext\n500\t2000\tgood day\n3000\t4000\tto you\n"
    second = format_transcript(transcript, "ctm", "some/my talk.wav", 2)
    ctm = format_transcript(transcript, "ctm", "some/my talk.wav")
    assert second == ctm.replace("my_talk 1 ", "my_talk 2 ") != ctm
    assert ctm == "my_talk 1 0.500 0.300 good 0.250\nmy_talk 1 1.000 0.500 day 1.000\n"
    assert format_transcript(transcript, "txt") == "good day to you\n"
    data = json.loads(format_transcript(transcript, "json", "talk.wav"))
    assert data["path"] == "talk.wav" and data["segments"][0]["words"][0]["confidence"] == 0.25


def test_json_holds_confidences_and_alternatives() -> None:
    nbest = (Alternative("good day", -1.23456), Alternative("good they", -3.0))
    segment = Segment(0.0, 1.0, "good day", (), 0.87654, nbest)
    data = json.loads(format_transcript(Transcript((segment,), 1.0), "json"))["segments"][0]
    assert data["confidence"] == 0.877
    assert data["nbest"][0] == {"text": "good day", "score": -1.235} and len(data["nbest"]) == 2


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_said_is_a_valid_file(format: str) -> None:
    content = format_transcript(Transcript((), 3.0), format, "talk.wav")
    assert content == {
        "txt": "\n", "srt": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n", "ctm": "",
        "json": '{"path": "talk.wav", "text": "", "duration": 3.0, "segments": []}\n',
    }[format]  # fmt: skip
