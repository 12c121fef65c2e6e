"""What measuring programs share: to recognise, and to keep what need not be done again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.manifest import Utterance
from asr.report import HYPOTHESES, write_whole

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.score import Score

RUNS = Path("runs/ablations")
RESULT = "result.json"

Figures = dict[str, Any]


def digest_of_utterances(utterances: Sequence[Utterance]) -> str:
    """Return what changes when other utterances or references are taken."""
    items = [(item.id, item.audio_filepath, item.text) for item in utterances]
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def digest_of_model(folder: Path) -> dict[str, str]:
    """Return the check sums of the files that decide what a model hears."""
    from asr.checkpoint import CONFIDENCE, MODEL_FILES, TOKENIZER

    paths = [folder / name for name in MODEL_FILES if name not in (CONFIDENCE, TOKENIZER)]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


def read_kept(folder: Path, key: Figures) -> Figures | None:
    """Return the result in a folder if it is of this key, and whole."""
    try:
        kept: Figures = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return kept["figures"] if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(folder: Path, key: Figures, figures: Figures) -> Figures:
    """Write a result, behind the hypotheses that it was made from."""
    text = json.dumps({"key": key, "figures": figures}, indent=1, ensure_ascii=False)
    write_whole(folder / RESULT, text + "\n")
    return figures


def keep_hypotheses(folder: Path, score: Score, name: str = HYPOTHESES) -> None:
    """Write what was heard, one utterance a line."""
    lines = [json.dumps(item.to_json(), ensure_ascii=False) for item in score.utterances]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, "\n".join(lines) + "\n")


def difference(score: Score, baseline: Path) -> Figures | None:
    """Hold a score against kept hypotheses; None where these are its own."""
    from asr.benchmark import compare

    return asdict(compare(score, baseline)) if baseline.is_file() else None


def recognise(
    bundle: ModelBundle, utterances: Sequence[Utterance], search: SearchConfig
) -> tuple[dict[str, str], Figures]:
    """Return what is heard of each utterance, by id, and what it took in seconds.

    Raises:
        ValueError: A file cannot be read.
    """
    from asr.benchmark import recognise_utterances

    before = time.process_time()
    found = recognise_utterances(bundle, utterances, search)
    processor = time.process_time() - before
    if found.problems:
        raise ValueError(found.problems[0])
    return found.texts, {
        "audio_seconds": sum(found.durations.values()),
        "wall_seconds": found.seconds_reading + found.seconds_recognising,
        "processor_seconds": processor,
    }
