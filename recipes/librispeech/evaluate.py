"""Score a model on LibriSpeech's dev and test sets and write the table of results anew.

    python recipes/librispeech/evaluate.py runs/mini_5h/model --name mini_5h \\
        --manifests runs/manifests --sets dev-clean dev-other
    python recipes/librispeech/evaluate.py --table-only

Hypotheses, alignments and summaries go to `runs/evaluate/NAME/SET/`. A copy of each summary, with
command, machine and date, is kept in `results/NAME/SET.json` beside this file, and `RESULTS.md` is
made from these copies alone: nobody types a figure. The rows of the model named `default`, which is
the one in the package, also go into the README and the model card. What follows `--` goes to
`asr.benchmark`, such as `-- --beam-size 16`. `--keep` measures only what was not measured with the
same model and command. Works on a CPU and on a GPU; without one, a full set takes minutes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kept import digest_of_model

from asr.arguments import Parser
from asr.breakdown import (
    NO_RATE,
    SPREAD,
    length_rate_to_text,
    length_to_text,
    speaker_cells,
    table_head,
    table_row,
)
from asr.report import write_between

RECIPE = Path(__file__).parent
RESULTS = "results"  # folder of the kept summaries
TABLE = "RESULTS.md"
DEFAULT = "default"  # the name of the shipped model
DEFAULT_TABLES = (
    RECIPE.parents[1] / "README.md",
    RECIPE.parents[1] / "asr" / "models" / "default" / "README.md",
)
BEGIN = "<!-- made by evaluate.py: begin -->"
END = "<!-- made by evaluate.py: end -->"
NOT_RUN = "not run"
# Summaries are read through this list, so that a change of `asr.benchmark` is caught here.
SUMMARY_KEYS = ("wer", "cer", "wer_interval", "cer_interval", "rtfx", "machine", "date", "command")


class EvaluateError(ValueError):
    """A manifest or summary that is missing or not what it should be."""


@dataclass(frozen=True)
class Result:
    """One model on one set; rates are fractions. Older summaries have no `by_` keys."""

    model: str
    set: str
    wer: float
    wer_interval: tuple[float, float]
    cer: float
    cer_interval: tuple[float, float]
    rtfx: float
    machine: str
    date: str
    command: str
    by_length: list[dict[str, Any]] | None = None
    by_speaker: dict[str, Any] | None = None


def evaluate(
    model: Path, kept: Path, manifest: Path, extra: list[str], command: str, keep: bool = False
) -> None:
    """Score one set and keep its summary.

    Args:
        model: Model directory.
        kept: Where the copy of the summary goes: `results/NAME/SET.json`.
        manifest: The set.
        extra: Arguments for `asr.benchmark`.
        command: What makes the table's row.
        keep: Do nothing if the copy is there, made by the same command from the same files.

    Raises:
        EvaluateError: The manifest is missing, or the benchmark failed.
    """
    if not manifest.is_file():
        raise EvaluateError(f"{manifest}: not found; prepare.py makes the manifests")
    if keep and _is_up_to_date(kept, model, command):
        print(f"{kept}: already there")
        return
    from asr import benchmark

    name = kept.parent.name
    output = Path("runs/evaluate") / name / manifest.stem
    arguments = [str(manifest), "--model", str(model), "--output-dir", str(output), *extra]
    if benchmark.main(arguments) != 0:
        raise EvaluateError(f"{manifest}: asr.benchmark failed with {shlex.join(arguments)}")
    summary = read_summary(output / "summary.json")
    summary["command"] = command  # ours, which makes the table's row, not that of the benchmark
    summary["files"] = digest_of_model(model)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _is_up_to_date(kept: Path, model: Path, command: str) -> bool:
    """Tell whether a kept summary was made by a command from a model's present files."""
    try:
        summary = read_summary(kept)
        return (summary["command"], summary["files"]) == (command, digest_of_model(model))
    except (EvaluateError, OSError, KeyError, TypeError):
        return False


def read_summary(path: Path) -> dict[str, Any]:
    """Read a summary and make sure that it has what the table needs.

    Raises:
        EvaluateError: It cannot be read or lacks a key.
    """
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise EvaluateError(f"{path}: no readable summary ({error})") from error
    missing = [key for key in SUMMARY_KEYS if key not in summary]
    if missing:
        raise EvaluateError(f"{path}: summary without {', '.join(missing)}")
    return summary


def load_results(folder: Path) -> list[Result]:
    """Read all kept summaries, sorted by model and set."""
    results = []
    for path in sorted(folder.glob("*/*.json")):
        summary = read_summary(path)
        machine = summary["machine"]
        threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
        results.append(
            Result(
                model=path.parent.name,
                set=path.stem,
                wer=summary["wer"],
                wer_interval=tuple(summary["wer_interval"]),
                cer=summary["cer"],
                cer_interval=tuple(summary["cer_interval"]),
                rtfx=summary["rtfx"],
                machine=machine["gpu"] or f"{threads} of {machine['cpu']}",
                date=summary["date"][:10],
                command=summary["command"],
                by_length=summary.get("by_length"),
                by_speaker=summary.get("by_speaker"),
            )
        )
    return results


def make_table(results: list[Result], configs: list[str]) -> str:
    """Return the table in Markdown; a configuration without results has a row "not run"."""
    lines = [
        "| model | set | WER % (95 % interval) | CER % (95 % interval) | RTFx | machine | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({*configs, *(item.model for item in results)}):
        rows = [item for item in results if item.model == name]
        lines += [
            f"| {name} | {item.set} | {_percent(item.wer, item.wer_interval)} "
            f"| {_percent(item.cer, item.cer_interval)} | {item.rtfx:.1f} "
            f"| {item.machine} | {item.date} |"
            for item in rows
        ]
        if not rows:
            lines.append(f"| {name} | {NOT_RUN} | {NOT_RUN} | {NOT_RUN} | | | |")
    sets: dict[tuple[str, str], list[str]] = {}  # one command may have scored several
    for item in results:
        sets.setdefault((item.model, item.command), []).append(item.set)
    if sets:
        lines += ["", "Commands:", ""]
    lines += [f"- {model}, {', '.join(names)}: `{run}`" for (model, run), names in sets.items()]
    return "\n".join(lines)


def make_page(results: list[Result], configs: list[str]) -> str:
    """Return the table and, below it, those of the shipped model by length and by speaker."""
    lines = [make_table(results, configs)]
    shipped = [result for result in results if result.model == DEFAULT]
    by_length = [(item.set, item.by_length) for item in shipped if item.by_length]
    if by_length:
        ranges = list(dict.fromkeys(length_to_text(p) for _, parts in by_length for p in parts))
        lines += ["", f"WER % (95 % interval) of `{DEFAULT}` by length of utterance:", ""]
        lines += table_head("set", *ranges)
        for name, parts in by_length:
            rates = {length_to_text(part): length_rate_to_text(part) for part in parts}
            lines.append(table_row(name, *(rates.get(key, NO_RATE) for key in ranges)))
    by_speaker = [(item.set, item.by_speaker) for item in shipped if item.by_speaker]
    if by_speaker:
        lines += ["", f"WER % of `{DEFAULT}` by speaker (who it is, in brackets):", ""]
        lines += table_head("set", "speakers", *SPREAD)
        lines += [table_row(name, *speaker_cells(spread)) for name, spread in by_speaker]
    return "\n".join(lines)


def _percent(rate: float, interval: tuple[float, float]) -> str:
    return f"{100 * rate:.2f} ({100 * interval[0]:.2f}–{100 * interval[1]:.2f})"


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into ours and what follows `--`."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = Parser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="model directory")
    parser.add_argument("--name", help="of the row; the configuration's name if it has one")
    parser.add_argument("--manifests", type=Path, default=Path("runs/manifests"))
    parser.add_argument("--sets", nargs="+", default=["dev-clean", "dev-other"], metavar="SET")
    parser.add_argument(
        "--results", type=Path, default=RECIPE, metavar="FOLDER",
        help="of RESULTS.md and results/ (default: beside this file)",
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="leave out what is already measured")
    parser.add_argument("--table-only", action="store_true", help="only write RESULTS.md anew")
    arguments = parser.parse_args(argv[:split])
    if not arguments.table_only and not (arguments.model and arguments.name):
        parser.error("a model directory and --name are needed (or --table-only)")
    return arguments, argv[split + 1 :]


def main(argv: list[str] | None = None) -> int:
    """Evaluate and write the table; return 2 after an error of the user's."""
    argv = sys.argv[1:] if argv is None else argv
    arguments, extra = parse_arguments(argv)
    command = shlex.join(["python", "recipes/librispeech/evaluate.py", *argv])
    try:
        for name in [] if arguments.table_only else arguments.sets:
            manifest = arguments.manifests / f"{name}.jsonl"
            kept = arguments.results / RESULTS / arguments.name / f"{name}.json"
            evaluate(arguments.model, kept, manifest, extra, command, arguments.keep)
        configs = [path.stem for path in (RECIPE / "configs").glob("*.toml")]
        results = load_results(arguments.results / RESULTS)
        table = arguments.results / TABLE
        if not table.exists():
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text(f"# Results\n\n{BEGIN}\n{END}\n", encoding="utf-8")
        write_between(table, BEGIN, END, make_page(results, configs))
        shipped = [result for result in results if result.model == DEFAULT]
        for page in DEFAULT_TABLES if arguments.results == RECIPE else ():
            write_between(page, BEGIN, END, make_table(shipped, [DEFAULT]))
        print(f"{table} written")
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
