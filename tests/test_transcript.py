"""Transcripts: joining, plain data, refused times."""

import json
import math
import subprocess
import sys

import pytest

from asr.transcript import Segment, Transcript, Word

WORDS = (Word("good", 0.1, 0.4, 0.98765), Word("day", 0.4, 0.81234))
TRANSCRIPT = Transcript(
    segments=(
        Segment(0.0, 1.0, "good day", WORDS),
        Segment(1.0, 2.0, ""),
        Segment(2.5, 3.0, "to you"),
    ),
    duration=4.5,
)


def test_text_joins_segments_with_single_spaces() -> None:
    assert TRANSCRIPT.text == TRANSCRIPT.to_text() == "good day to you"


def test_a_transcript_without_speech_is_an_empty_line() -> None:
    assert Transcript((), 3.0).to_text() == ""


def test_json_is_plain_data() -> None:
    data = json.loads(json.dumps(TRANSCRIPT.to_json()))
    assert data["duration"] == 4.5
    assert data["text"] == "good day to you"
    assert data["segments"][0] == {
        "start": 0.0,
        "end": 1.0,
        "text": "good day",
        "words": [
            {"text": "good", "start": 0.1, "end": 0.4, "confidence": 0.988},
            {"text": "day", "start": 0.4, "end": 0.812, "confidence": 1.0},
        ],
    }
    assert data["segments"][2] == {"start": 2.5, "end": 3.0, "text": "to you"}


@pytest.mark.parametrize(("start", "end"), [(2.0, 1.0), (-0.5, 1.0), (math.nan, 1.0)])
def test_times_that_make_no_sense_are_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"segment 'hello': found start .* wanted 0 <= start"):
        Segment(start, end, "hello")
    with pytest.raises(ValueError, match=r"word 'hello': found start"):
        Word("hello", start, end)


def test_confidence_is_a_fraction() -> None:
    with pytest.raises(ValueError, match=r"confidence is 98, wanted a number from 0 to 1"):
        Word("hello", 0.0, 1.0, 98)


def test_importing_transcripts_does_not_import_torch() -> None:
    program = "import sys, asr.transcript; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
