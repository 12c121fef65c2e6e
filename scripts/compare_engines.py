"""Compare our recogniser with what people use: errors, speed, memory and size on the same files.

    python scripts/compare_engines.py runs/manifests/dev-clean.jsonl \\
        runs/manifests/dev-other-part.jsonl --count 200 100 \\
        --engines-python runs/engines-venv/bin/python --weights moonshine=runs/moonshine-tiny
    python scripts/compare_engines.py MANIFEST --engines default pocketsphinx --runs 5
    python scripts/compare_engines.py MANIFEST --program "mine=python my_engine.py --quick"
    python scripts/compare_engines.py --table-only

`engines.py` has the engines and says how to install them, in an environment apart from the
project; `pip install 'asr[compare]'` brings the normaliser of texts. Each engine gets a process of
its own, the same 16-bit WAV files one by one, and as many threads and cores as the others; runs
take turns. Texts, times and scores go to a folder a set below --results, and the tables in --page
are made from that folder alone. An engine that has run with the same files, settings, weights and
version is not run again without --again; all are scored anew each time.

Engines named by --engines or --program must run; of all others, what cannot run says why in its
row. `--program NAME=COMMAND` adds a program that speaks as `engines.py` says. Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import ENGINES, OURS
from engines_run import (
    START_LIMIT,
    EngineError,
    Run,
    describe_engine,
    measure_engine,
    pick_utterances,
    serving,
    write_wavs,
)
from engines_table import (
    NORMALIZERS,
    REFERENCES,
    SET,
    load_normalizer,
    make_tables,
    read_json,
    score_set,
    write_json,
    write_texts,
)

from asr.arguments import Parser
from asr.manifest import read_manifest
from asr.report import describe_machine, write_between

RECIPE = Path(__file__).parents[1] / "recipes" / "librispeech"
BEGIN = "<!-- made by compare_engines.py: begin -->"
END = "<!-- made by compare_engines.py: end -->"


@dataclass(frozen=True)
class TestSet:
    """Utterances as files; `checksum` tells whether two sets are the same."""

    name: str
    ids: tuple[str, ...]
    files: tuple[str, ...]
    checksum: str


@dataclass(frozen=True)
class Candidate:
    """An engine and how it is started.

    Attributes:
        name: Of its files.
        title: Of its row.
        command: That serves.
        about: As `engines.describe` returns it.
        needed: It was asked for by name, or is ours.
    """

    name: str
    title: str
    command: tuple[str, ...]
    about: dict[str, Any]
    needed: bool


def prepare_set(manifest: Path, count: int, work: Path, results: Path) -> TestSet:
    """Pick utterances, write them as WAV files, and keep what was said.

    Raises:
        ValueError: The manifest or a recording cannot be read.
    """
    utterances = pick_utterances(manifest, count)
    name, of = manifest.stem, len(read_manifest(manifest))
    files, seconds = write_wavs(utterances, work / name)
    digest = hashlib.sha256()
    for utterance, file in zip(utterances, files, strict=True):
        digest.update(f"{utterance.id}\0{utterance.text}\0".encode() + Path(file).read_bytes())
    said = [(utterance.id, utterance.text) for utterance in utterances]
    about = {
        "set": name, "utterances": len(files), "of": of, "audio_seconds": round(seconds, 3),
        "files": digest.hexdigest(),
    }  # fmt: skip
    write_texts(results / name / REFERENCES, "reference", said)
    write_json(results / name / SET, about)
    ids = tuple(utterance.id for utterance in utterances)
    return TestSet(name, ids, tuple(files), about["files"])


def find_candidate(name: str, options: argparse.Namespace) -> Candidate:
    """Look up an engine: a program of the command line, or one of `engines.py`.

    Raises:
        EngineError: Its Python cannot be run.
    """
    if name in options.program:
        command = tuple(shlex.split(options.program[name]))
        digest = hashlib.sha256()
        for path in filter(Path.is_file, map(Path, command[1:])):  # its source, perhaps weights
            digest.update(path.read_bytes())
        about = {
            "missing": "", "version": "", "settings": options.program[name],
            "weights": {"files": 0, "bytes": None, "sha256": digest.hexdigest()},
            "installed_bytes": None,
        }  # fmt: skip
        return Candidate(name, name, command, about, True)
    ours = name in OURS
    python = sys.executable if ours else options.engines_python
    weights = options.weights.get(name) or (options.model if ours else None)
    about = describe_engine(python, name, weights)
    needed = name in (OURS if options.engines is None else options.engines)
    return Candidate(
        name, ENGINES[name].title, tuple(serving(python, name, weights)), about, needed
    )


def key_of(candidate: Candidate, test_set: TestSet, threads: int) -> dict[str, Any]:
    """Return what decides whether a result is the one that is wanted."""
    about = {"settings": None, "weights": {"sha256": None}, "version": None, **candidate.about}
    return {
        "files": test_set.checksum, "threads": threads, "settings": about["settings"],
        "weights": about["weights"]["sha256"], "version": about["version"],
    }  # fmt: skip


def run_candidate(
    candidate: Candidate, test_set: TestSet, number: int, options: argparse.Namespace
) -> None:
    """Run an engine on a set if it has not been run so often, and keep what it took.

    Args:
        candidate: The engine.
        test_set: The set.
        number: Of this run, from 1.
        options: Of the command line.

    Raises:
        EngineError: It cannot run, and is needed.
    """
    kept = options.results / test_set.name / f"{candidate.name}.json"
    result = read_json(kept)
    key = key_of(candidate, test_set, options.threads)
    is_same = "not_run" not in result and result.get("key") == key
    if is_same and len(result["runs"]) >= number and not (options.again and number == 1):
        print(f"{test_set.name} {candidate.name}, run {number}: already there", file=sys.stderr)
        return
    try:
        if candidate.about["missing"]:
            raise EngineError(f"{candidate.name}: {candidate.about['missing']}")
        run = measure_engine(
            candidate.name, candidate.command, test_set.files, options.threads, options.start_limit
        )
    except EngineError as error:
        if candidate.needed:
            raise
        reason = str(error).removeprefix(f"{candidate.name}: ")
        print(f"{test_set.name} {candidate.name}: not run: {reason}", file=sys.stderr)
        if result.get("key", {}).get("files") != test_set.checksum:
            write_json(kept, {"title": candidate.title, "not_run": reason})
        return
    if number == 1:
        texts = zip(test_set.ids, run.texts, strict=True)
        write_texts(kept.with_suffix(".jsonl"), "hypothesis", texts)
        result = {"runs": []}
    if not candidate.about["weights"]["sha256"]:  # they were downloaded meanwhile
        candidate = find_candidate(candidate.name, options)
    keep_run(kept, result, candidate, key_of(candidate, test_set, options.threads), run, options)
    print(f"{test_set.name} {candidate.name}, run {number}: {run.to_json()}", file=sys.stderr)


def keep_run(
    kept: Path, result: dict[str, Any], candidate: Candidate, key: dict[str, Any], run: Run,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Add a run to a result and write it; the score follows when all have run."""
    described = describe_machine()  # of its versions, others' engines have none in common
    result |= {
        "title": candidate.title, "key": key, "version": candidate.about["version"],
        "weights": candidate.about["weights"], "runs": [*result["runs"], run.to_json()],
        "installed_bytes": candidate.about["installed_bytes"], "command": options.command,
        "date": described["date"], "machine": described["machine"],
    }  # fmt: skip
    write_json(kept, result)


def compare(options: argparse.Namespace) -> None:
    """Run what has not been run, and score all.

    Raises:
        ValueError: A manifest, a recording or an engine that was asked for is not usable.
    """
    load_normalizer(options.normalizer)  # its absence must not show after an hour
    names = [*(ENGINES if options.engines is None else options.engines), *options.program]
    candidates = []
    for name in names:
        candidate = find_candidate(name, options)
        if candidate.about["missing"] and candidate.needed:
            raise EngineError(f"{name}: {candidate.about['missing']}")
        candidates.append(candidate)
    counts = options.count * (len(options.manifests) if len(options.count) == 1 else 1)
    for manifest in options.manifests:  # before the first is written
        pick_utterances(manifest, 1)
    sets = [
        prepare_set(manifest, count, options.work, options.results)
        for manifest, count in zip(options.manifests, counts, strict=True)
    ]
    for number in range(1, options.runs + 1):
        for test_set in sets:
            for candidate in candidates:
                run_candidate(candidate, test_set, number, options)


def publish(options: argparse.Namespace) -> None:
    """Score all sets and put the tables into the page.

    Raises:
        ValueError: There is nothing to show, or a file is damaged.
    """
    for place in sorted(options.results.glob(f"*/{SET}")):
        score_set(place.parent, options.normalizer)
    tables = make_tables(options.results)
    if not options.page.exists():
        options.page.parent.mkdir(parents=True, exist_ok=True)
        options.page.write_text(f"# Engines\n\n{BEGIN}\n{END}\n", encoding="utf-8")
    write_between(options.page, BEGIN, END, tables)
    print(tables)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; wrong ones end the program with code 2."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("manifests", nargs="*", type=Path, metavar="MANIFEST", help="JSON lines, a set each")
    add(
        "--count", nargs="+", type=int, default=[200], metavar="N",
        help="utterances, evenly picked: of each set, or one number a set (default: 200)",
    )  # fmt: skip
    add(
        "--engines", nargs="*", choices=list(ENGINES), metavar="ENGINE",
        help="default: all; none of them after the bare option, for --program alone",
    )  # fmt: skip
    add("--engines-python", default=sys.executable, metavar="PYTHON", help="of the others' engines")
    add("--model", metavar="DIR", help="our model (default: the one in the package)")
    add("--weights", action="append", default=[], metavar="ENGINE=PATH", help="of an engine")
    add("--program", action="append", default=[], metavar="NAME=COMMAND", help="one more engine")
    add("--threads", type=int, default=1, metavar="N", help="and cores, of each engine (1)")
    add("--runs", type=int, default=1, metavar="N", help="of each engine, for medians (1)")
    add("--normalizer", choices=list(NORMALIZERS), default="whisper", help="of texts (whisper)")
    add("--start-limit", type=float, default=START_LIMIT, metavar="S", help="to be ready (600)")
    add("--again", action="store_true", help="run also what is there already")
    add("--table-only", action="store_true", help="run nothing: score and write the tables")
    add("--results", type=Path, default=RECIPE / "engines", metavar="DIR", help="of what is kept")
    add("--page", type=Path, default=RECIPE / "ENGINES.md", metavar="FILE", help="of the tables")
    add("--work", type=Path, default=Path("runs/compare_engines"), metavar="DIR", help="of WAVs")
    options = parser.parse_intermixed_args(argv)
    options.command = shlex.join(["python", "scripts/compare_engines.py", *argv])
    _check(options, parser)
    return options


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Read the pairs among the options, and end the program if some are wrong."""
    for name in ("weights", "program"):
        pairs = dict(text.partition("=")[::2] for text in getattr(options, name))
        if not all(key and value for key, value in pairs.items()):
            parser.error(f"--{name}: found {getattr(options, name)}, wanted NAME=VALUE")
        setattr(options, name, pairs)
    if unknown := set(options.weights) - set(ENGINES):
        parser.error(f"--weights: found {min(unknown)!r}, wanted one of {', '.join(ENGINES)}")
    if taken := set(options.program) & {*ENGINES, Path(SET).stem, Path(REFERENCES).stem}:
        parser.error(f"--program: found {min(taken)!r}, which is taken; wanted another name")
    if wrong := [name for name in options.program if Path(name).name != name]:
        parser.error(f"--program: found {wrong[0]!r}, wanted a name without slashes")
    if not options.manifests and not options.table_only:
        parser.error("found no manifest, wanted at least one (or --table-only)")
    if len({path.stem for path in options.manifests}) != len(options.manifests):
        parser.error("found two manifests of the same name, wanted different ones")
    if len(options.count) not in (1, len(options.manifests)):
        parser.error(f"--count: found {len(options.count)} numbers, wanted one, or one a manifest")
    if min(*options.count, options.threads, options.runs) < 1:
        parser.error("--count, --threads, --runs: wanted whole numbers above 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return 2 after an error of the user's, 130 after Ctrl-C."""
    options = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        if not options.table_only:
            compare(options)
        publish(options)
    except (ValueError, OSError) as error:
        print(f"compare_engines: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("compare_engines: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
