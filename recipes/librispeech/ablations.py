"""Measure what each technique is worth, and what it costs: in a model's search, and in training.

    python recipes/librispeech/ablations.py search asr/models/default \\
        runs/manifests/dev-clean.jsonl --limit 500 --threads 1
    python recipes/librispeech/ablations.py train                      # hours on a CPU core
    python recipes/librispeech/ablations.py train --only noise gru     # of `techniques.py`
    python recipes/librispeech/ablations.py train --steps 5            # a try: not in RESULTS.md
    python recipes/librispeech/ablations.py table

`search` decodes with one setting changed at a time against the model's own search, be it over
words or along characters; a model that is set to greedy search is given a beam. `train`
trains `configs/cpu_19h.toml` with the differences in `ablations/hearing.toml` (an encoder) or
`ablations/spelling.toml` (a decoder on the shipped encoder), and again with one technique switched
on, off or exchanged, and judges each on the same utterances. `splice` and `splice_short` read
runs/words.ctm, of scripts/align_manifests.py, `texts` runs/heard.safetensors, of
scripts/collect_heard.py. Hypotheses and runs are kept in
`runs/ablations/`; what is there for the same weights, utterances and settings is not done again, so
that a stopped command goes on where it stood.
Figures go to `ablations/search.json` and `ablations/training.json`, and RESULTS.md is made from
these. Costs are processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablation_tables import FIGURES, PAGE, SEARCH, TRAINING, write_tables
from ablation_training import Stopped, measure_training, training_folder
from kept import (
    RUNS,
    Figures,
    difference,
    digest_of_model,
    digest_of_utterances,
    keep,
    keep_hypotheses,
    read_kept,
    recognise,
)
from techniques import CHARACTERS, DEFAULT, TECHNIQUES, WORDS, variants_of

from asr.arguments import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, Parser, positive
from asr.config import SearchConfig
from asr.manifest import Utterance
from asr.report import HYPOTHESES, describe_machine, describe_score, write_whole

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle

RECIPE = Path(__file__).parent
PARTS, TIMED = 10, 5  # a set is decoded in parts; so many of them also with the default


def recognise_beside(
    bundle: ModelBundle,
    utterances: Sequence[Utterance],
    search: SearchConfig,
    default: SearchConfig,
) -> tuple[dict[str, str], Figures]:
    """Recognise a set in parts, some of them with the default too, in turns.

    Returns:
        The texts of `search`, and its cost: `ratios` of its processor time to the default's.
    """
    texts: dict[str, str] = {}
    cost: Figures = {"audio_seconds": 0.0, "wall_seconds": 0.0, "processor_seconds": 0.0}
    ratios = []
    parts = [utterances[number::PARTS] for number in range(min(PARTS, len(utterances)))]
    for number, part in enumerate(parts):
        timed = number < TIMED and search != default
        if timed and number % 2:
            _, beside = recognise(bundle, part, default)
        found, took = recognise(bundle, part, search)
        if timed and not number % 2:
            _, beside = recognise(bundle, part, default)
        if timed:
            ratios.append(took["processor_seconds"] / beside["processor_seconds"])
        texts.update(found)
        cost = {name: value + took[name] for name, value in cost.items()}
    return texts, {name: round(value, 2) for name, value in cost.items()} | {"ratios": ratios}


def default_of(bundle: ModelBundle) -> SearchConfig:
    """Return a model's own search; if that is greedy and has no settings, one along a beam.

    Raises:
        ValueError: The model is to search over words and cannot.
    """
    from asr.decode import NO_WORDS

    own = bundle.config.search
    if own.method == WORDS:
        if bundle.word_decoder is None:
            raise ValueError(f"{bundle.directory}: search method {WORDS!r}: {NO_WORDS}")
        share = own.recurrent_share if bundle.recurrent_model else 0.0
        return replace(own, nbest=1, recurrent_share=share)
    lm_weight = own.lm_weight if bundle.language_model else 0.0
    return replace(own, method=CHARACTERS, lm_weight=lm_weight, nbest=1)


def what_counts(search: SearchConfig) -> SearchConfig:
    """Return equal settings of searches over words that only differ in how nothing is weighed."""
    if search.method != WORDS:
        return search
    if search.rescore < 2 or not (search.rescore_weight or search.recurrent_share):
        search = replace(search, rescore=0, rescore_weight=0.0, recurrent_share=0.0)
    return search if search.rescore_weight else replace(search, ctc_weight=0.0)


def measure_search(args: argparse.Namespace, command: str) -> Figures:
    """Measure the default search of a model and its variants.

    Raises:
        ValueError: The model or the manifest cannot be used.
    """
    import torch

    from asr.benchmark import describe_model, select_utterances
    from asr.checkpoint import load_model

    torch.set_num_threads(args.threads)
    utterances = select_utterances(args.manifest, args.limit)
    bundle = load_model(args.model)
    default = default_of(bundle)
    key = {
        "model": digest_of_model(bundle.directory),
        "utterances": digest_of_utterances(utterances),
        "default": _plain(default),
        "threads": args.threads,
    }
    runs = RUNS / "search" / bundle.directory.resolve().name / Path(args.manifest).stem
    variants: dict[str, Figures] = {}
    same = []
    for variant in variants_of(default.method):
        search = variant.of(default)
        if variant is not DEFAULT and what_counts(search) == what_counts(default):
            same.append(variant.name)
            continue
        if search.method == CHARACTERS and search.lm_weight and bundle.language_model is None:
            print(f"{variant.text}: not run, there is no language model of characters", flush=True)
            continue
        folder = runs / variant.name
        own_key = {**key, "search": _plain(search)}
        figures = None if args.again else read_kept(folder, own_key)
        if figures is None:
            baseline = runs / DEFAULT.name / HYPOTHESES
            figures = _measure(bundle, utterances, search, default, folder, baseline)
            keep(folder, own_key, figures)
        print(f"{variant.text}: WER {100 * figures['wer']:.2f} %", flush=True)
        variants[variant.name] = figures
    return {
        "manifest": args.manifest, "model": describe_model(bundle), "files": key["model"],
        "default": key["default"], "same_as_default": same, "variants": variants,
        **describe_machine(), "command": command,
    }  # fmt: skip


def _measure(
    bundle: ModelBundle,
    utterances: Sequence[Utterance],
    search: SearchConfig,
    default: SearchConfig,
    folder: Path,
    baseline: Path,
) -> Figures:
    """Measure one search, keep its hypotheses in a folder, and return its figures."""
    from asr.benchmark import score_texts

    for one in {default, search}:  # what is loaded or compiled once must not count
        recognise(bundle, utterances[:1], one)
    texts, cost = recognise_beside(bundle, utterances, search, default)
    score = score_texts(utterances, texts, bundle.config.data.normalize)
    against = None if search == default else difference(score, baseline)
    keep_hypotheses(folder, score)
    date = describe_machine()["date"]
    return {**describe_score(score), "against": against, **cost, "date": date}


def _plain(search: SearchConfig) -> Figures:
    """Return settings as JSON gives them back."""
    return {**asdict(search), "hotwords": list(search.hotwords)}


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(prog="ablations.py", description=__doc__)
    commands = parser.add_subparsers(dest="part", required=True, metavar="COMMAND")
    search = commands.add_parser("search", help="one setting of a model's search changed at a time")
    search.add_argument("model", metavar="MODEL", help="model directory")
    search.add_argument("manifest", metavar="MANIFEST", help="what to recognise, with references")
    search.add_argument("--limit", type=positive, metavar="N", help="utterances (default: all)")
    search.add_argument("--threads", type=positive, default=1, metavar="T", help="(default: 1)")
    search.add_argument("--again", action="store_true", help="also what is measured already")
    train = commands.add_parser("train", help="one technique of training changed at a time")
    train.add_argument(
        "--only", nargs="+", metavar="NAME", choices=[item.name for item in TECHNIQUES],
        help="techniques beside the base: %(choices)s (default: all)",
    )  # fmt: skip
    train.add_argument(
        "--steps", type=positive, metavar="N",
        help=f"updates instead of the base's; results stay in {RUNS}/training_N_updates",
    )  # fmt: skip
    train.add_argument("--manifest", default="runs/manifests/dev-clean.jsonl", metavar="FILE")
    train.add_argument(
        "--limit", type=positive, default=200, metavar="N", help="utterances (default: %(default)s)"
    )
    table = commands.add_parser("table", help=f"only write {PAGE} anew")
    for command in (search, train, table):
        command.add_argument(
            "--results", type=Path, metavar="FOLDER",
            help=f"of {PAGE} and {FIGURES}/ (default: beside this file)",
        )  # fmt: skip
    return parser


def run(args: argparse.Namespace, command: str) -> None:
    """Do what the command line wants, and write figures and tables."""
    steps = getattr(args, "steps", None)
    results = args.results or (training_folder(steps) if steps else RECIPE)
    figures = results / FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    write_tables(results)  # complain now, not after the work
    if args.part == "search":
        _write_json(figures / SEARCH, measure_search(args, command))
    elif args.part == "train":
        for known in measure_training(args, command):
            _write_json(figures / TRAINING, known)
            write_tables(results)
    print(f"{write_tables(results)} written")


def _write_json(path: Path, figures: Figures) -> None:
    write_whole(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    try:
        run(args, shlex.join(["python", "recipes/librispeech/ablations.py", *argv]))
    except (ValueError, OSError) as error:
        print(f"ablations: {str(error).replace(chr(10), ' ')}", file=sys.stderr)
        return EXIT_ERROR
    except Stopped as stopped:
        return int(stopped.args[0])
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
