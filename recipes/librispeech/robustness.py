"""Measure how a model does where speech is not clean, and what it prints where there is none.

    python recipes/librispeech/robustness.py --threads 2
    python recipes/librispeech/robustness.py --limit 0            # whole sets, hours on a CPU
    python recipes/librispeech/robustness.py --model runs/mini_5h/model --name mini_5h --limit 50
    python recipes/librispeech/robustness.py --table-only

The first set is put through every condition of `conditions.py`, the others are taken as they were
recorded; each is every n-th utterance. All goes the way of `asr.transcribe` and `asr.benchmark`,
with the voice activity detector: that is what users get. Chance depends on the utterance's name
alone, so that another model meets the same noise. Hypotheses go to `runs/robustness/NAME/`,
figures to `robustness/NAME.json` beside this file, and `ROBUSTNESS.md` is made from these alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from conditions import (
    BABBLE_VOICES,
    CLEAN,
    CONDITIONS,
    NON_SPEECH,
    RATE,
    Condition,
    Waveform,
    make_non_speech,
    random_generator,
)

from asr.arguments import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, Parser
from asr.manifest import Utterance, read_manifest
from asr.options import add_model_arguments
from asr.report import describe_machine, describe_score, write_between, write_whole

RECIPE = Path(__file__).parent
PAGE = "ROBUSTNESS.md"
RESULTS = "robustness"  # folder of the figures
HYPOTHESES = Path("runs/robustness")
SETS = ("dev-clean", "dev-other-part", "commonvoice")
BEGIN = "<!-- made by robustness.py: begin -->"
END = "<!-- made by robustness.py: end -->"
RECORDINGS, SECONDS = 5, 20.0  # of each kind of sound without speech
_BLOCK = 64  # utterances in memory at once

Transcribe = Callable[[Sequence[Waveform]], list[str]]


def choose(manifest: Path, limit: int) -> list[Utterance]:
    """Read a set and take `limit` utterances evenly; 0 is all.

    Raises:
        ValueError: The manifest cannot be read or holds nothing.
    """
    if not manifest.is_file():
        raise ValueError(f"{manifest}: not found, wanted a manifest; prepare.py makes them")
    utterances = read_manifest(manifest)
    if not utterances:
        raise ValueError(f"{manifest}: found 0 utterances, wanted at least 1")
    count = min(limit or len(utterances), len(utterances))
    return [utterances[index * len(utterances) // count] for index in range(count)]


@lru_cache(maxsize=256)
def load(path: str) -> Waveform:
    """Read an utterance."""
    from asr.audio import load_audio

    return load_audio(path, RATE)


def voices_for(utterance: Utterance, utterances: Sequence[Utterance]) -> list[Waveform]:
    """Return other utterances, of other speakers where these are known, for the babble around one.

    Raises:
        ValueError: There are too few.
    """
    others = [
        other
        for other in utterances
        if other.id != utterance.id and (not other.speaker or other.speaker != utterance.speaker)
    ]
    if len(others) < BABBLE_VOICES:
        raise ValueError(
            f"{utterance.id}: found {len(others)} utterances of other speakers for the babble, "
            f"wanted at least {BABBLE_VOICES} (a higher --limit)"
        )
    picks = random_generator("voices", utterance.id).choice(
        len(others), BABBLE_VOICES, replace=False
    )
    return [load(others[index].audio_filepath) for index in picks]


def recognise(
    utterances: Sequence[Utterance], condition: Condition, transcribe: Transcribe
) -> dict[str, str]:
    """Return what is heard of each utterance, by id, under a condition."""
    texts: dict[str, str] = {}
    ordered = sorted(utterances, key=lambda utterance: -utterance.duration)  # little padding
    for start in range(0, len(ordered), _BLOCK):
        block = ordered[start : start + _BLOCK]
        waveforms = [
            condition(load(item.audio_filepath), item.id, partial(voices_for, item, utterances))
            for item in block
        ]
        texts.update(zip((item.id for item in block), transcribe(waveforms), strict=True))
    return texts


def measure_set(
    utterances: Sequence[Utterance],
    conditions: Sequence[Condition],
    transcribe: Transcribe,
    normalize: str,
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Score a set under conditions, the first of which the others are held against.

    Args:
        utterances: With ids that are all different.
        conditions: The first is the clean one.
        transcribe: From waveforms to texts.
        normalize: How the model spells: references are spelled alike.
        folder: For the hypotheses, `CONDITION.jsonl`.

    Returns:
        The figures by condition.
    """
    from asr.normalize import normalize_text
    from asr.score import Score, paired_bootstrap, score_utterances

    references = {
        item.id: normalize_text(item.text) if normalize == "english" else item.text
        for item in utterances
    }
    folder.mkdir(parents=True, exist_ok=True)
    clean: Score | None = None
    figures = {}
    for condition in conditions:
        texts = recognise(utterances, condition, transcribe)
        score = score_utterances((name, references[name], texts[name]) for name in references)
        lines = [json.dumps(scored.to_json(), ensure_ascii=False) for scored in score.utterances]
        write_whole(folder / f"{condition.name}.jsonl", "\n".join(lines) + "\n")
        clean = clean or score
        words = [[item.words for item in each.utterances] for each in (score, clean)]
        difference = None if score is clean else asdict(paired_bootstrap(*words))
        figures[condition.name] = {
            "text": condition.text, **describe_score(score), "against_clean": difference,
        }  # fmt: skip
        print(f"{folder.name}, {condition.text}: WER {100 * score.wer:.2f} %", flush=True)
    return figures


def measure_non_speech(transcribe: Transcribe, folder: Path) -> dict[str, dict[str, Any]]:
    """Count what is printed for recordings without speech."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    lines = []
    for kind in NON_SPEECH:
        texts = transcribe([make_non_speech(kind, n, SECONDS) for n in range(RECORDINGS)])
        lines += [json.dumps({"kind": kind, "number": n, "text": t}) for n, t in enumerate(texts)]
        figures[kind] = {
            "recordings": len(texts),
            "minutes": len(texts) * SECONDS / 60,
            "with_text": sum(bool(text) for text in texts),
            "characters": sum(len(text) for text in texts),
        }
        print(f"{kind}: text in {figures[kind]['with_text']} of {len(texts)}", flush=True)
    write_whole(folder / "non_speech.jsonl", "\n".join(lines) + "\n")
    return figures


def measure(args: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure everything and return it as plain data.

    Raises:
        ValueError: A set, the model or a setting is missing or wrong.
    """
    from asr.checkpoint import WEIGHTS
    from asr.options import load_from_arguments
    from asr.recognizer import Recognizer

    chosen = {name: choose(args.manifests / f"{name}.jsonl", args.limit) for name in args.sets}
    bundle, search = load_from_arguments(args)
    recognizer = Recognizer(bundle, search, args.vad, words=False)
    hears_all = replace(recognizer, detect_speech=False)
    folder = HYPOTHESES / args.name
    trained_on = {Path(path).stem for path in bundle.config.data.train_manifests}
    sets: dict[str, Any] = {}
    for number, (name, utterances) in enumerate(chosen.items()):
        conditions = (CLEAN,) if number else CONDITIONS
        transcribe = partial(_texts, recognizer)
        normalize = bundle.config.data.normalize
        sets[name] = {
            "utterances": len(utterances),
            "seconds": round(sum(utterance.duration for utterance in utterances), 1),
            "seen_in_training": name in trained_on,
            "conditions": measure_set(
                utterances, conditions, transcribe, normalize, folder / name
            ),
        }  # fmt: skip
    return {
        "sets": sets,
        "non_speech": measure_non_speech(partial(_texts, recognizer), folder / "vad"),
        "non_speech_without_vad": measure_non_speech(partial(_texts, hears_all), folder / "no_vad"),
        "sha256": hashlib.sha256((bundle.directory / WEIGHTS).read_bytes()).hexdigest(),
        "search": {**asdict(search), "hotwords": list(search.hotwords)},
        **describe_machine(),
        "command": command,
    }


def _texts(recognizer: Any, waveforms: Sequence[Waveform]) -> list[str]:
    return [transcript.text for transcript in recognizer.transcribe(waveforms)]


def make_page(results: dict[str, dict[str, Any]]) -> str:
    """Return the tables of all models in Markdown."""
    return "\n\n".join(_section(name, result) for name, result in sorted(results.items()))


def _section(name: str, result: dict[str, Any]) -> str:
    first = next(iter(result["sets"]))
    of_set = result["sets"][first]
    lines = [
        f"## {name}",
        "",
        f"Weights sha256 {result['sha256'][:16]}…, {result['date'][:10]}, `{result['command']}`",
        "",
        f"### {first}, {of_set['utterances']} utterances, {of_set['seconds'] / 60:.0f} minutes",
        "",
        "| condition | WER % (95 % interval) | more than clean, points (95 % interval) "
        "| words left out % |",
        "|---|---|---|---|",
        *(_row(figures) for figures in of_set["conditions"].values()),
        "",
        "### Other speakers and microphones, as recorded",
        "",
        "| set | utterances | WER % (95 % interval) | words left out % |",
        "|---|---|---|---|",
    ]
    for other, values in result["sets"].items():
        figures = values["conditions"][CLEAN.name]
        seen = ", **seen in training**" if values["seen_in_training"] else ""
        lines.append(
            f"| {other}{seen} | {values['utterances']} | {_wer(figures)} | {_left_out(figures)} |"
        )
    lines += [
        "",
        f"### Without speech, {RECORDINGS} recordings of {SECONDS:.0f} s each",
        "",
        "| sound | recordings with text | characters a minute | the same with `--no-vad` |",
        "|---|---|---|---|",
    ]
    for kind, values in result["non_speech"].items():
        rates = [
            f"{item['with_text']} of {item['recordings']} "
            f"| {item['characters'] / item['minutes']:.1f}"
            for item in (values, result["non_speech_without_vad"][kind])
        ]
        lines.append(f"| {kind} | {rates[0]} | {rates[1].replace(' | ', '; ')} |")
    return "\n".join(lines)


def _row(figures: dict[str, Any]) -> str:
    change = figures["against_clean"]
    more = ""
    if change:
        low, high = (100 * end for end in change["interval"])
        more = f"{100 * change['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"| {figures['text']} | {_wer(figures)} | {more} | {_left_out(figures)} |"


def _wer(figures: dict[str, Any]) -> str:
    low, high = (100 * end for end in figures["wer_interval"])
    return f"{100 * figures['wer']:.1f} ({low:.1f}–{high:.1f})"


def _left_out(figures: dict[str, Any]) -> str:
    words = figures["words"]
    total = words["hits"] + words["substitutions"] + words["deletions"]
    return f"{100 * words['deletions'] / total:.1f}" if total else ""


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the figures of all models, by name.

    Raises:
        ValueError: A file is not what `measure` gives.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        try:
            results[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            _section(path.stem, results[path.stem])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise ValueError(
                f"{path}: no readable figures ({type(error).__name__}: {error})"
            ) from error
    return results


def write_page(folder: Path) -> Path:
    """Write the page of a folder anew from its figures."""
    page = folder / PAGE
    content = make_page(read_results(folder / RESULTS))
    if not page.exists():
        write_whole(page, f"# Robustness\n\n{BEGIN}\n{END}\n")
    write_between(page, BEGIN, END, content)
    return page


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(prog="robustness.py", description=__doc__)
    parser.add_argument("--name", default="default", help="of the model, in the page")
    parser.add_argument("--manifests", type=Path, default=Path("runs/manifests"), metavar="FOLDER")
    parser.add_argument(
        "--sets", nargs="+", default=SETS, metavar="SET",
        help="manifests; the first one is put through all conditions (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, default=200, metavar="N", help="utterances of each set; 0 is all"
    )
    parser.add_argument(
        "--results", type=Path, default=RECIPE, metavar="FOLDER",
        help=f"of {PAGE} and {RESULTS}/ (default: beside this file)",
    )  # fmt: skip
    parser.add_argument("--table-only", action="store_true", help=f"only write {PAGE} anew")
    add_model_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    command = shlex.join(["python", "recipes/librispeech/robustness.py", *argv])
    try:
        if args.limit < 0:
            raise ValueError(f"--limit: found {args.limit}, wanted 0 or more")
        if args.model and args.name == "default" and args.results == RECIPE:
            raise ValueError("--name: found none beside --model, wanted a name for the page")
        if not args.table_only:
            figures = measure(args, command)
            (args.results / RESULTS).mkdir(parents=True, exist_ok=True)
            text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
            write_whole(args.results / RESULTS / f"{args.name}.json", text)
        print(f"{write_page(args.results)} written")
    except (ValueError, OSError) as error:
        print(f"robustness: {str(error).replace(chr(10), ' ')}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
