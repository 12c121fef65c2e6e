"""The results of a benchmark on disk: every hypothesis, and a summary as JSON and Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asr
from asr.breakdown import breakdown_to_markdown, escape_markdown
from asr.score import ErrorCounts, Interval, PairedDifference, Score, score_utterance

HYPOTHESES, SUMMARY, TABLE = "hypotheses.jsonl", "summary.json", "summary.md"


def describe_score(score: Score) -> dict[str, Any]:
    """Return the figures of a set as plain data; rates are fractions."""
    return {
        "utterances": len(score.utterances),
        "wer": score.wer,
        "wer_interval": list(score.wer_interval),
        "cer": score.cer,
        "cer_interval": list(score.cer_interval),
        "words": score.words.to_json(),
        "chars": score.chars.to_json(),
    }


def describe_machine() -> dict[str, Any]:
    """Return when and on what a run is made: date, processor, GPU, versions."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "system": platform.platform(),
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {
            "asr": asr.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "jiwer", "numpy", "silero-vad")},
        },
    }


def write_report(
    folder: Path,
    score: Score,
    files: Mapping[str, tuple[str, float]],
    summary: Mapping[str, Any],
) -> None:
    """Write the three files of a run, each whole or not at all.

    Args:
        folder: Made if absent.
        score: The run.
        files: Path and duration in seconds of each utterance, by id.
        summary: Plain data, as `to_markdown` takes it.
    """
    lines = []
    for scored in score.utterances:
        path, duration = files[scored.id]
        item = {**scored.to_json(), "audio_filepath": path, "duration": round(duration, 3)}
        lines.append(json.dumps(item, ensure_ascii=False))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / HYPOTHESES, "\n".join(lines) + "\n")
    write_whole(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_whole(folder / TABLE, to_markdown(summary))


def read_hypotheses(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the hypotheses of an earlier run by id.

    Raises:
        ValueError: The file cannot be read, or a line is not one of `write_report`'s.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    result: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            result[str(item["id"])] = str(item["hypothesis"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: found {line[:40]!r}, "
                "wanted a JSON object with 'id' and 'hypothesis'"
            ) from error
    return result


def to_markdown(summary: Mapping[str, Any]) -> str:
    """Return the summary of a run as Markdown that also reads well on a terminal."""
    machine, model = summary["machine"], summary["model"]
    versions = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    search = ", ".join(f"{name} {value}" for name, value in summary["search"].items())
    skipped = f", {summary['skipped']} unreadable ones left out" if summary["skipped"] else ""
    lines = [
        f"# Word error rate on {summary['manifest']}",
        "",
        "|     | rate     | 95 % interval      | errors | of     | sub.   | del.   | ins.   |",
        "|-----|----------|--------------------|--------|--------|--------|--------|--------|",
        _row("WER", summary["wer"], summary["wer_interval"], summary["words"]),
        _row("CER", summary["cer"], summary["cer_interval"], summary["chars"]),
        "",
        *breakdown_to_markdown(summary),
        *_baseline_lines(summary["baseline"]),
        f"- set: {summary['utterances']} utterances, {summary['audio_seconds']:.1f} s of "
        f"audio{skipped}",
        f"- speed: {summary['rtfx']:.1f} times real time ({summary['seconds_reading']:.1f} s "
        f"reading files, {summary['seconds_recognising']:.1f} s recognising)",
        f"- model: {model['directory']}, {model['parameters'] / 1e6:.1f} M parameters, "
        f"sha256 {model['sha256'][:16]}…",
        f"- search: {search}",
        f"- machine: {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} used, {machine['system']}",
        f"- versions: {versions}",
        f"- date: {summary['date']}",
        f"- command: `{summary['command']}`",
    ]
    return "\n".join(lines) + "\n"


def percent(rate: float) -> str:
    """Return a fraction as a percentage with two digits, without the sign."""
    return f"{100 * rate:.2f}"


def difference_to_text(difference: PairedDifference) -> str:
    """Return a paired difference in one sentence."""
    low, high = difference.interval
    if difference.significantly_worse:
        judgement = "significantly worse"
    elif difference.significantly_better:
        judgement = "significantly better"
    else:
        judgement = "no significant difference"
    return (
        f"{100 * difference.difference:+.2f} points of WER "
        f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f}, p {difference.p:.2g}): {judgement}"
    )


def _baseline_lines(baseline: Mapping[str, Any] | None) -> list[str]:
    if baseline is None:
        return []
    low, high = baseline["interval"]
    difference = PairedDifference(baseline["difference"], (low, high), baseline["p"])
    return [f"- against {baseline['file']}: {difference_to_text(difference)}"]


def _row(name: str, rate: float, interval: Interval, counts: Mapping[str, int]) -> str:
    totals = ErrorCounts(**counts)
    cells = [
        f"{percent(rate)} %".ljust(8),
        f"{percent(interval[0])} to {percent(interval[1])} %".ljust(18),
        *(
            str(number).ljust(6)
            for number in (
                totals.errors,
                totals.reference_length,
                totals.substitutions,
                totals.deletions,
                totals.insertions,
            )
        ),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_between(page: Path, begin: str, end: str, content: str) -> None:
    """Put `content` between two marks of a page and leave the rest of it as it is.

    Raises:
        ValueError: The page has not exactly one pair of these marks.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(f"{page}: wanted one line {begin!r} and, after it, one line {end!r}")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    write_whole(page, f"{before}{begin}\n\n{content}\n\n{end}{after}")


def transcripts_to_markdown(examples: Iterable[Sequence[str]]) -> str:
    """Return references beside hypotheses as a Markdown table in which errors are bold.

    A word that is missing on one side shows as a bold dash, as the stars of `sclite` do.

    Args:
        examples: (id, reference, hypothesis) of each utterance.
    """
    lines = ["| utterance | reference | hypothesis | WER % |", "|---|---|---|---:|"]
    for name, reference, hypothesis in examples:
        scored = score_utterance(name, reference, hypothesis)
        said, heard = [], []
        for operation, word, other in scored.alignment:
            mark = "" if operation == "hit" else "**"
            said.append(f"{mark}{escape_markdown(word) or '–'}{mark}")
            heard.append(f"{mark}{escape_markdown(other) or '–'}{mark}")
        rate = f"{100 * scored.words.rate:.0f}"
        lines.append(f"| {escape_markdown(name)} | {' '.join(said)} | {' '.join(heard)} | {rate} |")
    return "\n".join(lines) + "\n"
