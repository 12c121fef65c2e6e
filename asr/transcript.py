"""What was said in a recording: words in segments in a transcript.

All times are seconds from the start of the recording. The classes are frozen: a transcript
is made once by `asr.recognizer` and read, printed or stored afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Word:
    """One word and where it was said.

    Attributes:
        text: The word, without spaces.
        start: Seconds from the start of the recording.
        end: Seconds; never before `start`.
        confidence: From 0 (a guess) to 1 (certain).
    """

    text: str
    start: float
    end: float
    confidence: float = 1.0

    def __post_init__(self) -> None:
        """Refuse times that run backwards and confidences outside 0..1."""
        _check_times("word", self.text, self.start, self.end)
        _check_confidence("word", self.text, self.confidence)


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another text that was considered.

    Attributes:
        text: As it would stand in the transcript.
        score: Natural logarithm, higher is better; only its differences within one list say
            something.
    """

    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One interval of a recording and its text.

    Attributes:
        start: Seconds from the start of the recording.
        end: Seconds; never before `start`.
        text: What was said.
        words: Its words; empty where no times are known.
        confidence: Expected share of right words, 0 to 1; None where nothing is known.
        nbest: The best texts, `text` first; empty if they were not asked for.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    nbest: tuple[Alternative, ...] = ()

    def __post_init__(self) -> None:
        """Refuse times that run backwards and a confidence outside 0..1."""
        _check_times("segment", self.text, self.start, self.end)
        if self.confidence is not None:
            _check_confidence("segment", self.text, self.confidence)


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a whole recording.

    Attributes:
        segments: In the order in which they were said; silence between them is left out.
        duration: Length of the recording in seconds, silence included.
    """

    segments: tuple[Segment, ...]
    duration: float

    @property
    def text(self) -> str:
        """All segments in one line; segments without text leave no gap."""
        return " ".join(segment.text for segment in self.segments if segment.text)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in the order in which they were said."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_text(self) -> str:
        """Return the transcript as plain text for a reader: one line, without a line end."""
        return self.text

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers, ready for `json.dumps`.

        Times are rounded to milliseconds, confidences and scores to three digits; what a segment
        does not have (`words`, `confidence`, `nbest`) is left out.
        """
        return {
            "text": self.text,
            "duration": round(self.duration, 3),
            "segments": [_segment_to_json(segment) for segment in self.segments],
        }


def _segment_to_json(segment: Segment) -> dict[str, Any]:
    result: dict[str, Any] = {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
    }
    if segment.confidence is not None:
        result["confidence"] = round(segment.confidence, 3)
    if segment.words:
        result["words"] = [
            {
                "text": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in segment.words
        ]
    if segment.nbest:
        result["nbest"] = [
            {"text": other.text, "score": round(other.score, 3)} for other in segment.nbest
        ]
    return result


def _check_times(kind: str, text: str, start: float, end: float) -> None:
    # Written so that NaN, which compares as false, is refused as well.
    if not 0.0 <= start <= end:
        raise ValueError(
            f"{kind} {text!r}: found start {start} and end {end}, wanted 0 <= start <= end"
        )


def _check_confidence(kind: str, text: str, confidence: float) -> None:
    if not 0.0 <= confidence <= 1.0:
        raise ValueError(
            f"{kind} {text!r}: confidence is {confidence}, wanted a number from 0 to 1"
        )
