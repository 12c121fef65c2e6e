"""Training with one technique changed at a time: the second half of `ablations.py`.

Two trainings are held against their variants: of the encoder from random weights, and of a
decoder on what the shipped encoder hears (`ablations/hearing.toml`, `ablations/spelling.toml`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ablation_tables import FIGURES
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
from techniques import BASES, TECHNIQUES, Technique, base_of

from asr.config import (
    Config,
    SearchConfig,
    SearchMethod,
    config_from_dict,
    config_to_dict,
    load_config,
)
from asr.manifest import Utterance
from asr.report import HYPOTHESES, describe_machine, describe_score

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle

RECIPE = Path(__file__).parent
CONFIG = RECIPE / "configs" / "cpu_19h.toml"
DIFFERENCES = RECIPE / FIGURES  # of each base, in NAME.toml


class Stopped(Exception):  # it is not an error
    """Training was stopped or failed, and has said so itself; the argument is its exit code."""


def overrides_of(technique: Technique, steps: int | None = None) -> list[str]:
    """Return what a technique's run changes in `CONFIG`, as `asr.train` takes it.

    Args:
        technique: Which.
        steps: Updates instead of the base's; its phases shrink or grow with them.

    Raises:
        ValueError: A file of settings cannot be read.
    """
    try:
        path = DIFFERENCES / f"{technique.base}.toml"
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: no readable settings ({error})") from error
    overrides = [
        f"{section}.{name}={json.dumps(value)}"
        for section, table in tables.items()
        for name, value in table.items()
    ]
    if steps:
        base = load_config(CONFIG, overrides).train
        phases = ("warmup_steps", "decay_steps", "ctc_only_steps", "validate_every", "log_every")
        lengths = {n: -(-getattr(base, n) * steps // base.max_steps) for n in phases}
        overrides += [f"train.{name}={length}" for name, length in lengths.items()]
        overrides.append(f"train.max_steps={steps}")
    return [*overrides, *technique.overrides]


def train_technique(overrides: Sequence[str]) -> Path:
    """Train, or go on training, unless it is done; return the run's folder.

    Raises:
        ValueError: The folder holds a run with other settings.
        Stopped: By a signal, or training could not go on.
    """
    from asr import train

    config = load_config(CONFIG, overrides)
    folder = Path(config.train.output_dir)
    if changed := differences(folder, config):
        raise ValueError(
            f"{folder}: found a run with {', '.join(changed)}, wanted other settings; "
            "remove or rename it to train anew"
        )
    if not (folder / "last").is_dir():
        resume = ["train.resume=true"] if (folder / "state.pt").exists() else []
        print(f"training {folder}", flush=True)
        if code := train.main([str(CONFIG), *overrides, *resume]):
            raise Stopped(code)
    return folder


def differences(folder: Path, config: Config) -> list[str]:
    """Return the settings in which a run differs from what is wanted; none where there is no run.

    Raises:
        ValueError: Its settings cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        return []
    try:
        found = config_to_dict(config_from_dict(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no readable settings ({error})") from error
    return [
        f"{section}.{name}={found[section][name]!r}"
        for section, table in config_to_dict(config).items()
        for name, value in table.items()
        if name != "resume" and found[section][name] != value
    ]


def with_shipped_words(bundle: ModelBundle) -> ModelBundle:
    """Return a network with the shipped language models, to be searched along words.

    Raises:
        ValueError: It learned other phones than these know.
    """
    from asr.checkpoint import load_model

    shipped = load_model()
    if bundle.model.config.phone_labels != shipped.model.config.phone_labels:
        raise ValueError(f"{bundle.directory}: found other phones than the shipped model has")
    return replace(
        bundle,
        config=replace(bundle.config, search=shipped.config.search),
        language_model=shipped.language_model,
        word_model=shipped.word_model,
        vocabulary=shipped.vocabulary,
        recurrent_model=shipped.recurrent_model,
    )


def judge(
    folder: Path, base: Path, ways: Iterable[SearchMethod], utterances: Sequence[Utterance]
) -> Figures:
    """Score a finished run against the base, unless it was done with the same weights.

    Args:
        folder: Of the run.
        base: Of the run that it is held against.
        ways: How. Without phones there is no search along words.
        utterances: By what.

    Raises:
        ValueError: A model or file cannot be read.
    """
    from asr.benchmark import score_texts
    from asr.checkpoint import DEFAULT_MODEL, WEIGHTS, load_model

    words = digest_of_model(DEFAULT_MODEL)
    del words[WEIGHTS]  # all else decides what is found along words
    key = {
        "model": digest_of_model(folder / "last"),
        "base": digest_of_model(base / "last"),
        "words": words,
        "utterances": digest_of_utterances(utterances),
    }
    if kept := read_kept(folder, key):
        return kept
    bundle = load_model(folder / "last")
    check_frozen(bundle, load_model(base / "last", language_model=False))
    results = {}
    for way in ways:
        judged, search = bundle, SearchConfig(method=way)
        if way == "words":
            if bundle.lexicon is None:
                continue
            judged = with_shipped_words(bundle)
            search = judged.config.search
        texts, _ = recognise(judged, utterances, search)
        score = score_texts(utterances, texts, bundle.config.data.normalize)
        change = None if folder == base else difference(score, base / f"{way}.{HYPOTHESES}")
        keep_hypotheses(folder, score, f"{way}.{HYPOTHESES}")
        results[way] = {**describe_score(score), "against": change}
    return keep(folder, key, {"ways": results, **describe_run(folder)})


def check_frozen(bundle: ModelBundle, base: ModelBundle) -> None:
    """Refuse a run that stood on other weights than its base, as of another shipped model.

    Raises:
        ValueError: Weights that neither of them learned differ.
    """
    ours, theirs = bundle.model.state_dict(), base.model.state_dict()
    for name in ours:
        if name.startswith(bundle.config.train.freeze) and not ours[name].equal(theirs[name]):
            raise ValueError(
                f"{bundle.directory}: found another {name} than in {base.directory}, wanted the "
                "same; remove the older of the two runs to train it anew"
            )


def describe_run(folder: Path) -> Figures:
    """Return what training took, in seconds, and where its losses ended, from its log.

    Raises:
        ValueError: The log cannot be read or holds nothing.
    """
    from asr.monitor import LOG
    from asr.run_report import read_log

    log = read_log(folder / LOG)
    if not (log.train and log.starts):
        raise ValueError(f"{folder / LOG}: found no losses, wanted the log of a run")
    last = [record for record in log.train if record["step"] > 0.8 * log.step]
    losses = {
        name: statistics.fmean(record[name] for record in last)
        for name in ("ctc", "phone", "attention")
    }  # the mean of the last fifth: one batch says little
    return {
        "updates": log.step,
        "losses": losses,
        "wall_seconds": round(log.seconds, 1),
        "processor_seconds": round(log.processor_seconds, 2),
        "machine": log.starts[-1]["machine"],
    }


def measure_training(args: argparse.Namespace, command: str) -> Iterator[Figures]:
    """Train and judge the base and the techniques; yield all that is known after each.

    Raises:
        ValueError: Settings, data or a kept run cannot be used.
        Stopped: A training was stopped.
    """
    import torch

    from asr.benchmark import select_utterances

    utterances = select_utterances(args.manifest, args.limit)
    wanted = [technique for technique in TECHNIQUES if _is_wanted(technique, args.only)]
    wanted += [base for base in BASES if any(item.base == base.name for item in wanted)]
    check_lexicons(wanted, args.steps)
    runs = training_folder(args.steps)
    settings: dict[str, list[str]] = {}
    usable = set()  # names of runs that are there
    for technique in (*BASES, *TECHNIQUES):
        folder = runs / technique.name
        overrides = [*overrides_of(technique, args.steps), f"train.output_dir={folder}"]
        settings[technique.name] = overrides
        fits = technique in wanted or not differences(folder, load_config(CONFIG, overrides))
        if fits and (folder / "last").is_dir():
            usable.add(technique.name)
    # These come first, behind their bases, and are told of together: a table that exists does not
    # lose rows while runs are judged again.
    order = sorted(
        (t for t in (*BASES, *TECHNIQUES) if t in wanted or t.name in usable),
        key=lambda technique: (technique not in BASES, technique.name not in usable),
    )
    known: dict[str, Figures] = {}
    for technique in order:
        overrides = settings[technique.name]
        torch.set_num_threads(load_config(CONFIG, overrides).train.threads or 1)
        if technique in wanted:
            train_technique(overrides)
        base = base_of(technique)
        figures = judge(runs / technique.name, runs / base.name, base.ways, utterances)
        command_of_run = shlex.join(["python", "-m", "asr.train", _path(CONFIG), *overrides])
        known[technique.name] = {**figures, "command": command_of_run}
        if usable <= known.keys():
            yield {
                "manifest": args.manifest, "utterances": len(utterances), "techniques": known,
                **describe_machine(), "command": command,
            }  # fmt: skip


def check_lexicons(techniques: Sequence[Technique], steps: int | None) -> None:
    """Complain of a lexicon that cannot be read now, not after a night of other trainings.

    Raises:
        ValueError: As said; it names the technique.
    """
    from asr.lexicon import Lexicon

    for technique in techniques:
        if path := load_config(CONFIG, overrides_of(technique, steps)).data.lexicon:
            try:
                Lexicon.open(path)
            except ValueError as error:
                raise ValueError(f"technique {technique.name}: {error}") from error


def _is_wanted(technique: Technique, only: Sequence[str] | None) -> bool:
    return not only or technique.name in only


def training_folder(steps: int | None) -> Path:
    """Return where the runs of a budget are kept, so that a try never meets the real ones."""
    return RUNS / ("training" if steps is None else f"training_{steps}_updates")


def _path(path: Path) -> str:
    """Return a path as from the project's folder."""
    root = RECIPE.parents[1]
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
