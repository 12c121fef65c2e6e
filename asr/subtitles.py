"""Transcripts in the formats of players, editors and scoring tools: srt, vtt, tsv, ctm, json, txt.

Subtitles follow what television asks for: at most two lines of 42 characters, some 17 characters a
second where the speech allows it, no cue shorter than a second or longer than seven. Where cues
begin and end is chosen for the whole recording at once, by dynamic programming, so that they break
at pauses and at the ends of clauses, and no word is left over alone. A cue stays a moment after its
last word, and none is gone for so short a time that the screen only flickers.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import PurePath
from typing import Any

from asr.transcript import Segment, Transcript, Word

LINE_CHARACTERS, LINES = 42, 2
MIN_SECONDS, MAX_SECONDS = 1.0, 7.0  # of a cue
MIN_GAP_SECONDS = 0.08  # two pictures of a film: without it, a change of text is not noticed
READING_SPEED = 17.0  # characters a second
_LINGER_SECONDS = 0.4  # behind the last word, where nothing else follows
_FLICKER_SECONDS = 0.5  # between two cues: the first stays until the second comes

# What a cut costs, in cues: each cue is 1. Set by reading subtitles of one synthetic text.
_LONG_PAUSE, _NO_PAUSE_COST = 0.5, 1.5  # a break where there is no pause; free at a long one
_HARMLESS_PAUSE, _INNER_PAUSE_COST = 0.2, 4.0  # a second of a pause inside a cue
_INNER_SENTENCE_COST = 1.2  # a sentence that ends inside a cue
_LONELY_COST = 0.5  # a single word
_SHORT_COST = 4.0  # a second that is missing to the shortest cue
_HASTE_COST = 0.2  # a character a second above the reading speed
_WEAK_COST = 1.0  # a break behind a word that leans on the next one
_SENTENCE_ENDS = (".", "!", "?", "…")
_CLAUSE_SHARE = {**dict.fromkeys(_SENTENCE_ENDS, 0.0), ",": 0.4, ";": 0.2, ":": 0.4}  # of a break

# What a line break costs, in characters by which the lines differ.
_WEAK_BREAK, _PHRASE_BREAK, _CLAUSE_BREAK, _TOP_HEAVY = 10, -4, -12, 1

# English words that belong to what follows: a break behind them is bad, one before is good for all
# but the last kind. Without full stops and commas, they are what tells clauses.
_PHRASE_WORDS = frozenset(
    "about after against and as at because before between but by during for from if in into like "
    "nor of on onto or over since so than that though through to under unless until upon when "
    "where which while who whom whose with within without".split()
)
_WEAK_WORDS = _PHRASE_WORDS | frozenset(
    "a an the this these those my your his her its our their mister missus doctor i he she we they "
    "you it there am is are was were be been has have had do does did will would shall should can "
    "could may might must not no very too more most i'm i'll i've i'd he's she's it's we're "
    "they're you're don't".split()
)


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on the screen at once.

    Attributes:
        start: Milliseconds from the start of the recording.
        end: Milliseconds, after `start` and not after the next cue's start.
        lines: One or two.
    """

    start: int
    end: int
    lines: tuple[str, ...]


def make_cues(transcript: Transcript) -> list[Cue]:
    """Cut a transcript into cues, in order, none overlapping.

    Words of segments that have no times share the time of their segment by their lengths.
    """
    words = [part for segment in transcript.segments for part in _timed_words(segment)]
    groups = [words[first:last] for first, last in _group(words)]
    cues: list[Cue] = []
    free = 0  # milliseconds from which on the screen is free
    for number, group in enumerate(groups):
        is_last = number + 1 == len(groups)
        limit = transcript.duration if is_last else groups[number + 1][0].start - MIN_GAP_SECONDS
        text = " ".join(word.text for word in group)
        start, last = group[0].start, group[-1].end
        wanted = max(last + _LINGER_SECONDS, start + MIN_SECONDS, start + len(text) / READING_SPEED)
        if not is_last and limit - wanted < _FLICKER_SECONDS - MIN_GAP_SECONDS:
            wanted = limit
        # Times of words may be so close that nothing is left; a cue must still be seen.
        first = max(free, _milliseconds(start))
        end = min(_milliseconds(min(wanted, limit)), first + _milliseconds(MAX_SECONDS))
        free = max(first + 1, end)
        cues.append(Cue(first, free, _lines(text)))
    return cues


def _timed_words(segment: Segment) -> list[Word]:
    """Return the words of a segment, none longer than a line."""
    words = list(segment.words)
    if not words:
        texts = segment.text.split()
        total = sum(len(text) + 1 for text in texts)
        share = (segment.end - segment.start) / max(total, 1)
        place = segment.start
        for text in texts:
            words.append(Word(text, place, place + len(text) * share))
            place += (len(text) + 1) * share
    return [part for word in words for part in _split_word(word)]


def _split_word(word: Word) -> list[Word]:
    """Cut what is longer than a line."""
    parts = math.ceil(len(word.text) / LINE_CHARACTERS)
    if parts <= 1:
        return [word]
    share = (word.end - word.start) / parts
    return [
        replace(
            word,
            text=word.text[number * LINE_CHARACTERS : (number + 1) * LINE_CHARACTERS],
            start=word.start + number * share,
            end=word.start + (number + 1) * share,
        )
        for number in range(parts)
    ]


def _group(words: Sequence[Word]) -> list[tuple[int, int]]:
    """Return the first word and the one behind the last of each cue: the cheapest cut."""
    # Sums up to each word: characters with a space behind each, and the cost of pauses inside.
    characters = [0, *accumulate(len(word.text) + 1 for word in words)]
    pauses = [0.0, *accumulate(_inner_pause_cost(a, b) for a, b in pairwise(words)), 0.0]
    costs, previous = [0.0] + [math.inf] * len(words), [0] * (len(words) + 1)
    for last in range(1, len(words) + 1):
        following = words[last] if last < len(words) else None
        for first in range(last - 1, -1, -1):
            length = characters[last] - characters[first] - 1
            if last - first > 1 and not _fits(words[first:last], length):
                break
            cost = costs[first] + _cost(words[first], words[last - 1], following, length)
            cost += pauses[last - 1] - pauses[first] + _LONELY_COST * (last - first == 1)
            if cost < costs[last]:
                costs[last], previous[last] = cost, first
    cuts: list[tuple[int, int]] = []
    last = len(words)
    while last:
        cuts.append((previous[last], last))
        last = previous[last]
    return cuts[::-1]


def _fits(group: Sequence[Word], length: int) -> bool:
    if length > LINES * LINE_CHARACTERS + 1 or group[-1].end - group[0].start > MAX_SECONDS:
        return False
    if length <= LINE_CHARACTERS:
        return True
    place = -1  # of the space behind the last word that the first line can take
    for word in group:
        if place + 1 + len(word.text) > LINE_CHARACTERS:
            break
        place += 1 + len(word.text)
    return length - place - 1 <= LINE_CHARACTERS


def _inner_pause_cost(before: Word, after: Word) -> float:
    pause = max(after.start - before.end - _HARMLESS_PAUSE, 0.0)
    return _INNER_PAUSE_COST * pause + _INNER_SENTENCE_COST * (before.text[-1:] in _SENTENCE_ENDS)


def _cost(first: Word, last: Word, following: Word | None, length: int) -> float:
    """Say how bad a cue from `first` to `last` would be by its time and its end, in cues."""
    seconds = MAX_SECONDS
    cost = 1.0
    if following is not None:
        seconds = min(seconds, max(following.start - MIN_GAP_SECONDS - first.start, 0.01))
        pause = max(following.start - last.end, 0.0)
        share = _CLAUSE_SHARE.get(last.text[-1:], 1.0)
        cost += share * _NO_PAUSE_COST * (1.0 - min(pause / _LONG_PAUSE, 1.0))
        cost += _WEAK_COST * (last.text.lower() in _WEAK_WORDS)
    cost += _SHORT_COST * max(MIN_SECONDS - seconds, 0.0)
    return cost + _HASTE_COST * max(length / seconds - READING_SPEED, 0.0)


def _lines(text: str) -> tuple[str, ...]:
    """Break a text into two lines at the end of a clause, and as equal as can be."""
    if len(text) <= LINE_CHARACTERS or " " not in text:
        return (text,)
    words = text.split(" ")
    ends = list(accumulate((len(word) + 1 for word in words), initial=-1))[1:-1]
    costs = {}
    for (before, after), place in zip(pairwise(words), ends, strict=True):
        top, bottom = place, len(text) - place - 1
        cost = abs(top - bottom) + _TOP_HEAVY * (top > bottom)
        cost += _WEAK_BREAK * (before.lower() in _WEAK_WORDS)
        cost += _PHRASE_BREAK * (after.lower() in _PHRASE_WORDS)
        cost += _CLAUSE_BREAK * (before[-1:] in _CLAUSE_SHARE)
        costs[place] = (max(top, bottom, LINE_CHARACTERS), cost)
    best = min(costs, key=costs.__getitem__)
    return text[:best], text[best + 1 :]


def to_txt(transcript: Transcript) -> str:
    """Return the text in one line."""
    return transcript.to_text() + "\n"


def to_json(transcript: Transcript, name: str = "", channel: int | None = None) -> str:
    """Return one line of JSON: `path`, `channel` if it is one of several, `Transcript.to_json`."""
    place: dict[str, Any] = {"path": name, **({} if channel is None else {"channel": channel})}
    return json.dumps({**place, **transcript.to_json()}, ensure_ascii=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(make_cues(transcript), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles."""
    return "WEBVTT\n" + "".join(
        f"\n{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        for cue in make_cues(transcript)
    )


def to_tsv(transcript: Transcript) -> str:
    """Return a table of segments: start and end in whole milliseconds, and the text."""
    rows = ["start\tend\ttext\n"]
    for segment in transcript.segments:
        text = " ".join(segment.text.split())
        rows.append(f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{text}\n")
    return "".join(rows)


def to_ctm(transcript: Transcript, name: str = "", channel: int | None = None) -> str:
    """Return a line for each word: recording, channel, start, duration (s), word, confidence.

    The recording is the name's last part without its suffix, with `_` for spaces.
    """
    recording = "_".join(PurePath(name).stem.split()) or "recording"
    return "".join(
        f"{recording} {channel or 1} {word.start:.3f} {word.end - word.start:.3f} {word.text} "
        f"{word.confidence:.3f}\n"
        for word in transcript.words
    )


_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
}
_NAMING_WRITERS: dict[str, Callable[[Transcript, str, int | None], str]] = {
    "json": to_json,
    "ctm": to_ctm,
}
FORMATS = ("txt", "json", "srt", "vtt", "tsv", "ctm")
WORDLESS_FORMATS = ("txt", "tsv")  # need neither the times nor the confidences of words


def format_transcript(
    transcript: Transcript, format: str, name: str = "", channel: int | None = None
) -> str:
    """Return what a file of one of `FORMATS` holds.

    Args:
        transcript: The transcript.
        format: Extension of the file.
        name: Of the recording; json and ctm hold it.
        channel: Which of its channels it is, from 1 on, if it is one; json and ctm hold it.
    """
    if format in _NAMING_WRITERS:
        return _NAMING_WRITERS[format](transcript, name, channel)
    return _WRITERS[format](transcript)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _clock(milliseconds: int, separator: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{separator}{rest:03}"
