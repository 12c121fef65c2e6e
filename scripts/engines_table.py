"""What engines were heard to say, scored with one normaliser, and the tables made of it.

A folder a set holds all that the tables are made of, and nothing else is:

    set.json            which files: number, seconds, checksum
    references.jsonl    id and reference of each utterance, as the manifest has them
    ENGINE.jsonl        id and hypothesis of each utterance, as the engine gave them
    ENGINE.json         weights, versions, times of every run, and the score; or why it was not run
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from engines import ENGINES
from engines_run import EngineError

from asr.normalize import normalize_text
from asr.report import describe_score, write_whole
from asr.score import PairedDifference, Score, paired_bootstrap, score_utterances

SET, REFERENCES, QUOTED = "set.json", "references.jsonl", "quoted.json"
BASE = "default"  # the engine that the others are held against
NORMALIZERS = {
    "whisper": "Whisper's English normaliser (whisper-normalizer {})",
    "project": "the project's own normaliser (asr.normalize)",
}
BUSY = 0.1  # cores used by others, above which a machine is not idle
Normalize = Callable[[str], str]


def load_normalizer(name: str) -> Normalize:
    """Return a normaliser of texts: the one of Whisper, or the project's own.

    Whisper's is the default: what is published of Whisper and Moonshine was scored with it. It
    writes numbers as digits, opens contractions, and spells as Americans do, so that no engine is
    charged for its style. Ours spells numbers out, and leaves contractions and spellings.

    Raises:
        EngineError: The package is not installed.
    """
    if name == "project":
        return normalize_text
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        wanted = "pip install 'asr[compare]', or --normalizer project"
        raise EngineError(f"--normalizer whisper: {error}; wanted {wanted}") from error
    normalizer: Normalize = EnglishTextNormalizer()
    # It leaves dots of an ellipsis as words, which no one says.
    return lambda text: " ".join(word for word in normalizer(text).split() if word.strip("."))


def describe_normalizer(name: str) -> str:
    """Return a normaliser's name with its version."""
    if name == "project":
        return NORMALIZERS[name]
    from importlib.metadata import version

    return NORMALIZERS[name].format(version("whisper-normalizer"))


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object of a file, an empty one if there is no file.

    Raises:
        EngineError: The file is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: no readable JSON ({error})") from error
    if not isinstance(found, dict):
        raise EngineError(f"{path}: found a {type(found).__name__}, wanted a JSON object")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_texts(path: Path, key: str, items: Iterable[tuple[str, str]]) -> None:
    """Write ids and texts as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": name, key: text}, ensure_ascii=False) for name, text in items]
    write_whole(path, "\n".join(lines) + "\n")


def read_texts(path: Path, key: str) -> list[tuple[str, str]]:
    """Return what `write_texts` wrote.

    Raises:
        EngineError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        items = [json.loads(line) for line in lines if line]
        return [(item["id"], item[key]) for item in items]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path}: no readable texts ({error})") from error


def engines_of(folder: Path) -> list[str]:
    """Return the engines that a set's folder knows, those of `engines.py` first."""
    found = {path.stem for path in folder.glob("*.json")} - {Path(SET).stem}
    return [*(name for name in ENGINES if name in found), *sorted(found - set(ENGINES))]


def score_set(folder: Path, normalizer: str) -> None:
    """Score all engines of a set anew from their texts, and each against ours.

    Raises:
        EngineError: A file is damaged, or the normaliser is missing.
    """
    normalize = load_normalizer(normalizer)
    files = read_json(folder / SET)["files"]
    references = [normalize(text) for _, text in read_texts(folder / REFERENCES, "reference")]
    base: Score | None = None
    for name in sorted(engines_of(folder), key=lambda name: name != BASE):
        result = read_json(folder / f"{name}.json")
        if "not_run" in result or result["key"]["files"] != files:
            continue
        items = read_texts(folder / f"{name}.jsonl", "hypothesis")
        if len(items) != len(references):
            found = f"found {len(items)} texts"
            raise EngineError(f"{folder / name}.jsonl: {found}, wanted {len(references)}")
        score = score_utterances(
            (id_, reference, normalize(text))
            for (id_, text), reference in zip(items, references, strict=True)
        )
        result["normalizer"] = describe_normalizer(normalizer)
        result["score"] = describe_score(score)
        base = score if name == BASE else base
        result["difference"] = None
        if base is not None and name != BASE:
            found = _difference(score, base)
            result["difference"] = {
                "difference": found.difference, "interval": list(found.interval), "p": found.p,
            }  # fmt: skip
        write_json(folder / f"{name}.json", result)


def _difference(score: Score, base: Score) -> PairedDifference:
    return paired_bootstrap([u.words for u in score.utterances], [u.words for u in base.utterances])


def make_tables(folder: Path) -> str:
    """Return a table for each set below a folder, and the figures quoted for what was not run."""
    sets = sorted(path.parent for path in folder.glob(f"*/{SET}"))
    if not sets:
        raise EngineError(f"{folder}: found no set, wanted a folder with {SET}")
    parts = [part for place in sets for part in _set_lines(place)]
    quoted = read_json(folder / QUOTED)
    return "\n".join([*parts, *_quoted_lines(quoted)]).strip()


def _set_lines(folder: Path) -> list[str]:
    """Return the table of a set: by error rate, and what was not run at the end."""
    about = read_json(folder / SET)
    results = {name: read_json(folder / f"{name}.json") for name in engines_of(folder)}
    run = {
        name: result
        for name, result in results.items()
        if "score" in result and result["key"]["files"] == about["files"]
    }
    label = ", busy machine" if _most_others(run.values()) > BUSY else ""
    lines = [
        f"### {about['set']}",
        "",
        f"| engine | WER % (95 % interval) | against ours, points (95 % interval) | RTFx{label} "
        f"| RTFx by processor time{label} | start-up s{label} | peak memory MB | weights MB "
        "| installed MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(run, key=lambda name: run[name]["score"]["wer"]):
        lines.append(_row(run[name], about["audio_seconds"]))
    for name in [*ENGINES, *(name for name in results if name not in ENGINES)]:
        if name not in run:
            result = results.get(name, {})
            reason = f": {result['not_run']}" if "not_run" in result else ""
            title = result.get("title") or ENGINES[name].title
            lines.append(f"| {title} | not run{reason} | | | | | | | |")
    if run:
        lines += ["", *_notes(about, list(run.values()))]
    return [*lines, ""]


def _most_others(results: Iterable[Mapping[str, Any]]) -> float:
    """Return how many cores other work used while an engine ran, at most; 0 if not known."""
    return max((run["others"] or 0.0 for r in results for run in r["runs"]), default=0.0)


def _row(result: Mapping[str, Any], audio_seconds: float) -> str:
    score, difference = result["score"], result["difference"]
    cells = [result["title"], f"{100 * score['wer']:.2f} ({_range(score['wer_interval'], '.2f')})"]
    if difference is None:
        cells.append("")
    else:
        interval = _range(difference["interval"], "+.2f", " to ")
        cells.append(f"{100 * difference['difference']:+.2f} ({interval})")
    for key in ("seconds", "cpu_seconds"):
        value = _median(result["runs"], key)
        cells.append("" if not value else f"{audio_seconds / value:.1f}")
    for key, form in (("startup", ".1f"), ("megabytes", ".0f")):
        value = _median(result["runs"], key)
        cells.append("" if value is None else f"{value:{form}}")
    for size in (result["weights"]["bytes"], result["installed_bytes"]):
        cells.append("" if size is None else f"{size / 1e6:.0f}")
    return f"| {' | '.join(cells)} |"


def _range(interval: Sequence[float], form: str, between: str = "–") -> str:
    return between.join(f"{100 * value:{form}}" for value in interval)


def _median(runs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [run[key] for run in runs if run[key] is not None]
    return median(values) if values else None


def _notes(about: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how a table was measured."""
    machines = {result["machine"]["cpu"] for result in results}
    cores = {result["machine"]["cores"] for result in results}
    threads = {result["key"]["threads"] for result in results}
    counts = {len(result["runs"]) for result in results}
    others = _most_others(results)
    state = "the machine was idle otherwise"
    if others > BUSY:
        state = (
            f"**a busy machine**: other work used up to {others:.1f} cores meanwhile, which "
            "makes RTFx too low and start-up too long"
        )
    versions = ", ".join(f"{r['title']}: {r['version']}" for r in results if r["version"])
    lines = [
        f"{about['utterances']} of {about['of']} utterances of {about['set']}, evenly picked "
        f"({about['audio_seconds'] / 60:.1f} minutes), one by one; threads and cores for each "
        f"engine: {_join(threads)}, of the {_join(cores)} of {_join(machines)}; runs: "
        f"{_join(counts)}; {state}. Texts normalised with "
        f"{_join({r['normalizer'] for r in results})}. Versions: {versions}. "
        f"{_join({r['date'][:10] for r in results})}:",
        "",
    ]
    commands: dict[str, list[str]] = {}  # one command may have run several
    for result in results:
        commands.setdefault(result["command"], []).append(result["title"])
    return lines + [f"- {', '.join(names)}: `{command}`" for command, names in commands.items()]


def _join(values: Iterable[Any]) -> str:
    return " / ".join(sorted(map(str, values)))


def _quoted_lines(quoted: Mapping[str, Any]) -> list[str]:
    """Return the figures of others, as they were found."""
    if not quoted:
        return []
    columns = quoted["columns"]
    return [
        "### Quoted, not measured here",
        "",
        quoted["conditions"],
        "",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
        *(f"| {' | '.join(row)} |" for row in quoted["rows"]),
        "",
    ]
