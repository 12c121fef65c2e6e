"""Word error rates of a set's parts: by length of utterance and by speaker.

One rate hides how uneven it is. Long utterances show whether attention holds, and the spread over
speakers shows whom a model serves badly. Rates are fractions, and `None` where a part has no
reference word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from asr.score import ErrorCounts, Score, UtteranceScore, bootstrap_interval

LENGTH_BOUNDS = (0.0, 5.0, 10.0, 15.0, math.inf)  # seconds; an utterance of 5 s is in the second
SPREAD = ("lowest", "lower_quartile", "median", "upper_quartile", "highest")
NO_RATE = "–"


def describe_breakdown(
    score: Score, durations: Mapping[str, float], speakers: Mapping[str, str]
) -> dict[str, Any]:
    """Return the keys `by_length` and, if a speaker is known, `by_speaker` of a summary.

    Args:
        score: Of the set.
        durations: Seconds of every utterance, by id.
        speakers: Their speakers, by id; empty or absent where unknown.
    """
    result: dict[str, Any] = {"by_length": _by_length(score.utterances, durations)}
    by_speaker = _by_speaker(score.utterances, speakers)
    if by_speaker is not None:
        result["by_speaker"] = by_speaker
    return result


def _by_length(
    utterances: Sequence[UtteranceScore], durations: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return one object for each range of lengths, the empty ones too."""
    parts = []
    for low, high in pairwise(LENGTH_BOUNDS):
        # Rounded as in a hypotheses file, so that the same parts can be made from it.
        part = [u for u in utterances if low <= round(durations[u.id], 3) < high]
        parts.append(
            {
                "from": low,
                "to": None if math.isinf(high) else high,
                **_describe_part(part),
                "wer_interval": _interval(part),
            }
        )
    return parts


def _by_speaker(
    utterances: Sequence[UtteranceScore], speakers: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the spread of the speakers' rates and all of them, or None without any rate."""
    parts: dict[str, list[UtteranceScore]] = {}
    unknown = 0
    for utterance in utterances:
        name = speakers.get(utterance.id, "")
        if name:
            parts.setdefault(name, []).append(utterance)
        else:
            unknown += 1
    each = {name: _describe_part(parts[name]) for name in sorted(parts)}
    rates = {name: part["wer"] for name, part in each.items() if part["wer"] is not None}
    if not rates:
        return None
    quantiles = np.quantile(list(rates.values()), [0.0, 0.25, 0.5, 0.75, 1.0])
    return {
        "speakers": len(rates),
        **{name: float(value) for name, value in zip(SPREAD, quantiles, strict=True)},
        "best": min(rates, key=lambda name: rates[name]),
        "worst": max(rates, key=lambda name: rates[name]),
        "utterances_without_speaker": unknown,
        "each": each,
    }


def _describe_part(part: Sequence[UtteranceScore]) -> dict[str, Any]:
    counts = sum((utterance.words for utterance in part), ErrorCounts())
    return {
        "utterances": len(part),
        "reference_words": counts.reference_length,
        "errors": counts.errors,
        "wer": counts.rate if counts.reference_length else None,
    }


def _interval(part: Sequence[UtteranceScore]) -> list[float] | None:
    """Return the 95 % interval, or None where it has no end: JSON knows no infinity."""
    if not part:
        return None
    interval = bootstrap_interval(
        [utterance.words.errors for utterance in part],
        [utterance.words.reference_length for utterance in part],
    )
    return list(interval) if all(map(math.isfinite, interval)) else None


def breakdown_to_markdown(summary: Mapping[str, Any]) -> list[str]:
    """Return the lines of a summary's tables by length and by speaker; none if it has neither."""
    lines: list[str] = []
    if "by_length" in summary:
        lines += ["| length | utterances | words | WER % (95 % interval) |", "|---|---:|---:|---|"]
        lines += [
            f"| {length_to_text(part)} | {part['utterances']} | {part['reference_words']} "
            f"| {length_rate_to_text(part)} |"
            for part in summary["by_length"]
            if part["utterances"]
        ]
        lines.append("")
    if "by_speaker" in summary:
        lines += [
            *table_head("speakers", *(f"{name} WER %" for name in SPREAD)),
            table_row(*speaker_cells(summary["by_speaker"])),
            "",
        ]
    return lines


def table_head(*names: str) -> list[str]:
    """Return the two lines that a Markdown table begins with."""
    return [table_row(*(name.replace("_", " ") for name in names)), "|" + "---|" * len(names)]


def table_row(*cells: str) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def length_to_text(part: Mapping[str, Any]) -> str:
    """Return the range of lengths of a part, such as "5–10 s"."""
    if part["to"] is None:
        return f"{part['from']:g} s and more"
    return f"{part['from']:g}–{part['to']:g} s" if part["from"] else f"under {part['to']:g} s"


def length_rate_to_text(part: Mapping[str, Any]) -> str:
    """Return rate and interval of a part in percent."""
    if part["wer"] is None:
        return NO_RATE
    interval = part["wer_interval"]
    ends = "" if interval is None else "–".join(f"{100 * end:.2f}" for end in interval)
    return f"{100 * part['wer']:.2f} ({ends or NO_RATE})"


def speaker_cells(by_speaker: Mapping[str, Any]) -> Iterable[str]:
    """Yield number of speakers and the spread of their rates in percent, best and worst named."""
    yield str(by_speaker["speakers"])
    named = {"lowest": by_speaker["best"], "highest": by_speaker["worst"]}
    for key in SPREAD:
        rate = f"{100 * by_speaker[key]:.2f}"
        yield f"{rate} ({escape_markdown(named[key])})" if key in named else rate


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_|~\[\]])", r"\\\1", text).replace("<", "&lt;")
