"""The tables of `ablations.py` in RESULTS.md, made from its figures alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from techniques import BASES, DEFAULT, TECHNIQUES, WORDS, Base, variants_of

from asr.report import percent, write_between, write_whole

PAGE = "RESULTS.md"
FIGURES = "ablations"  # folder of the figures
SEARCH, TRAINING = "search.json", "training.json"
MARKS = {
    name: (f"<!-- ablations of the {name}: begin -->", f"<!-- ablations of the {name}: end -->")
    for name in ("search", "training")
}
NOT_RUN = "not run"

Figures = Mapping[str, Any]


def search_table(figures: Figures | None) -> str:
    """Return the table of the search in Markdown, of the figures of `search.json` if any."""
    variants = figures["variants"] if figures else {}
    lines = [
        "| search | WER % (95 % interval) | more than the default, points (95 % interval) "
        "| processor time, times the default's (range) |",
        "|---|---|---|---|",
    ]
    for variant in variants_of(figures["default"]["method"] if figures else WORDS):
        found = variants.get(variant.name)
        if found:
            cells = [_rate(found), _points(found["against"]), _ratios(found["ratios"])]
        elif figures and variant.name in figures["same_as_default"]:
            cells = ["the default itself", "", ""]
        else:
            cells = [NOT_RUN] * 3
        lines.append(f"| {variant.text} | {' | '.join(cells)} |")
    if figures:
        default = variants[DEFAULT.name]
        model = figures["model"]
        speed = default["audio_seconds"] / default["processor_seconds"]
        lines += [
            "",
            f"{default['utterances']} utterances of `{figures['manifest']}`, "
            f"{default['audio_seconds'] / 60:.0f} minutes, recognised by `{model['directory']}` "
            f"(sha256 {model['sha256'][:16]}…). The default: {_settings(figures['default'])}. It "
            f"takes a second of processor time for {speed:.1f} seconds of audio. Processor times "
            "are those of whole recognitions, reading and voice activity detection included; each "
            "ratio is the median over parts of the set that both searches heard in turns.",
            "",
            _source(figures),
        ]
    return "\n".join(lines)


def training_tables(figures: Figures | None) -> str:
    """Return the tables of training in Markdown, of the figures of `training.json` if any."""
    known = figures["techniques"] if figures else {}
    parts = [_training_table(base, known) for base in BASES]
    if figures and known:
        parts.append(
            f"{figures['utterances']} utterances of `{figures['manifest']}`. One run each with one "
            "seed: an interval tells how far other utterances would change a difference, not how "
            "far another seed would. Losses are in nats a character, means over the last fifth "
            "of the updates; label smoothing is part of the attention's."
        )
        parts.append(_source(figures))
    return "\n\n".join(parts)


def _training_table(base: Base, known: Figures) -> str:
    ways = " | ".join(
        f"{text}: WER % (95 % interval); more than the base, points" for text in base.ways.values()
    )
    of_base = known.get(base.name)
    updates = f", {of_base['updates']} updates each" if of_base else ""
    lines = [
        f"{base.title}{updates}:",
        "",
        f"| training | {ways} | last losses, {' and '.join(base.losses.values())} "
        "| processor time of training, min | times the base's |",
        "|" + "---|" * (len(base.ways) + 4),
    ]
    for technique in (base, *(item for item in TECHNIQUES if item.base == base.name)):
        found = known.get(technique.name)
        cells = [NOT_RUN] * (len(base.ways) + 3)
        if found and of_base:
            cells = [_way(found["ways"].get(way)) for way in base.ways]
            cells.append(", ".join(f"{found['losses'][name]:.3f}" for name in base.losses))
            took, whole = found["processor_seconds"], of_base["processor_seconds"]
            cells += [f"{took / 60:.1f}", f"{took / whole:.2f}" if whole else ""]
        lines.append(f"| {technique.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _settings(search: Figures) -> str:
    """Describe a search over words, or along characters, by the settings that count."""
    ctc, lm = f"{search['ctc_weight']:g}", f"{search['lm_weight']:g}"
    if search["method"] != WORDS:
        return (
            f"search along characters, beam size {search['beam_size']}, CTC weight {ctc}, "
            f"language model weight {lm}, length bonus {search['length_bonus']:g}"
        )
    by = []
    if share := search.get("recurrent_share"):  # older figures have none
        by.append(f"by a recurrent model with a share of {share:g}")
    if search["rescore_weight"]:
        by.append(
            f"by decoder and CTC over characters (of which it has {ctc}) with weight "
            f"{search['rescore_weight']:g}"
        )
    again = "nothing weighed again"
    if search["rescore"] > 1 and by:
        again = f"the best {search['rescore']} texts weighed again {' and '.join(by)}"
    margin = f"margin {search['margin']:g}, " if "margin" in search else ""  # older figures: none
    return (
        f"search over words, beam size {search['beam_size']}, {margin}language model weight {lm}, "
        f"word bonus {search['word_bonus']:g}, blank penalty {search['blank_penalty']:g}, {again}"
    )


def _rate(found: Figures) -> str:
    low, high = found["wer_interval"]
    return f"{percent(found['wer'])} ({percent(low)}–{percent(high)})"


def _points(change: Figures | None) -> str:
    if change is None:
        return ""
    low, high = (100 * end for end in change["interval"])
    return f"{100 * change['difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def _ratios(ratios: list[float]) -> str:
    if not ratios:
        return "1"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _way(found: Figures | None) -> str:
    if found is None:
        return "–"
    points = _points(found["against"])
    return f"{_rate(found)}; {points}" if points else _rate(found)


def _source(figures: Figures) -> str:
    machine = figures["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{figures['date'][:10]}, {threads} of {machine['cpu']}: `{figures['command']}`"


def write_tables(results: Path) -> Path:
    """Write both tables of a folder's page anew; what was not run says so.

    Raises:
        ValueError: Figures cannot be read, or the page lacks the marks.
    """
    parts: dict[str, tuple[str, Callable[[Figures | None], str]]] = {
        "search": (SEARCH, search_table),
        "training": (TRAINING, training_tables),
    }
    contents = {}
    for part, (name, make) in parts.items():
        path = results / FIGURES / name
        try:
            exists = path.exists()
            figures = json.loads(path.read_text(encoding="utf-8")) if exists else None
            contents[part] = make(figures)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"{type(error).__name__}: {error}"
            raise ValueError(f"{path}: no readable figures ({found})") from error
    page = results / PAGE
    if not page.exists():
        marks = "\n\n".join(f"{begin}\n{end}" for begin, end in MARKS.values())
        write_whole(page, f"# Results\n\n{marks}\n")
    for part, content in contents.items():
        write_between(page, *MARKS[part], content)
    return page
