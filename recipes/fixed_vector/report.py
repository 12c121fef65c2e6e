"""Show how the word error rate grows with the length: a table, a picture and every hypothesis.

    python recipes/fixed_vector/report.py runs/fixed_vector/none runs/fixed_vector/content \\
        --manifests runs/fixed_vector/{data,longer}/test.jsonl data/tiny/test.jsonl \\
        --output recipes/fixed_vector/results

The last weights of each run recognise each manifest with greedy search, which follows the decoder
alone. Hypotheses go to `RUN/report/MANIFEST/`; from them alone come `OUTPUT/report.md` and, for
each manifest, `OUTPUT/MANIFEST.svg`. `--redraw` makes both anew without recognising again. Works
on a CPU: two minutes. The picture needs matplotlib (extra `train`).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from asr.arguments import Parser
from asr.score import Score, UtteranceScore, score_utterance, score_utterances

NAMES = {"none": "fixed vector", "content": "attention", "location": "location-aware attention"}
EDGES = (7, 10, 16, 22, 28)  # words at which a new bin begins


@dataclass(frozen=True)
class Heard:
    """What one model made of one manifest."""

    name: str
    summary: dict[str, Any]
    utterances: tuple[UtteranceScore, ...]


@dataclass(frozen=True)
class Bin:
    """The utterances of a range of lengths, as two or more models heard them.

    Attributes:
        shortest: Words of the shortest reference.
        longest: Words of the longest reference.
        scores: One a model.
    """

    shortest: int
    longest: int
    scores: tuple[Score, ...]

    @property
    def words(self) -> str:
        """The range, to read."""
        return (
            f"{self.shortest}–{self.longest}" if self.shortest < self.longest else f"{self.longest}"
        )


def name_of(run: Path) -> str:
    """Return what a run's model is called in table and picture.

    Raises:
        ValueError: There is no finished model.
    """
    path = run / "last" / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model"]["attention"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: found no finished run ({error}), train it first") from error
    return NAMES[kind]


def recognise(run: Path, manifest: Path, extra: Sequence[str]) -> None:
    """Keep the hypotheses of a run's last weights, followed greedily.

    Raises:
        ValueError: The benchmark failed.
    """
    from asr import benchmark

    arguments = [str(manifest), "--model", str(run / "last"), "--method", "greedy"]
    arguments += ["--output-dir", str(folder_of(run, manifest)), *extra]
    if code := benchmark.main(arguments):
        raise ValueError(f"asr.benchmark {shlex.join(arguments)}: failed with exit code {code}")


def folder_of(run: Path, manifest: Path) -> Path:
    """Return where the hypotheses of a run on a manifest are kept."""
    return run / "report" / "-".join(manifest.with_suffix("").parts[-2:])


def read(run: Path, manifest: Path) -> Heard:
    """Read and score kept hypotheses.

    Raises:
        ValueError: There are none, or they cannot be read.
    """
    folder = folder_of(run, manifest)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        lines = (folder / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
        items = [json.loads(line) for line in lines]
        scores = tuple(score_utterance(i["id"], i["reference"], i["hypothesis"]) for i in items)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: found no hypotheses ({error})") from error
    return Heard(name_of(run), summary, scores)


def bins_of(heard: Sequence[Heard], edges: Sequence[int]) -> list[Bin]:
    """Sort utterances by the words of their references and score each bin.

    Raises:
        ValueError: The models did not hear the same utterances.
    """
    if len({tuple((u.id, u.reference) for u in each.utterances) for each in heard}) != 1:
        raise ValueError("found hypotheses of different utterances, wanted the same manifest")
    result = []
    for low, high in zip((0, *edges), (*edges, sys.maxsize), strict=True):
        inside = [low <= u.words.reference_length < high for u in heard[0].utterances]
        if not any(inside):
            continue
        scores = tuple(
            score_utterances(
                (u.id, u.reference, u.hypothesis)
                for u, wanted in zip(each.utterances, inside, strict=True)
                if wanted
            )
            for each in heard
        )
        lengths = [u.words.reference_length for u in scores[0].utterances]
        result.append(Bin(min(lengths), max(lengths), scores))
    return result


def table(heard: Sequence[Heard], bins: Sequence[Bin]) -> str:
    """Return the rates of each bin, and of all utterances, as Markdown."""
    names = [f"{each.name}: WER % (95 % interval)" for each in heard]
    lines = [f"| words | utterances | {' | '.join(names)} |", f"|---|---|{'---|' * len(heard)}"]
    for each in bins:
        rates = " | ".join(percent(s.wer, s.wer_interval) for s in each.scores)
        lines.append(f"| {each.words} | {len(each.scores[0].utterances)} | {rates} |")
    whole = " | ".join(percent(h.summary["wer"], h.summary["wer_interval"]) for h in heard)
    lines.append(f"| all | {len(heard[0].utterances)} | {whole} |")
    return "\n".join(lines)


def percent(rate: float, interval: Sequence[float]) -> str:
    """Return a rate with its interval, in percent."""
    return f"{100 * rate:.1f} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"


def draw(path: Path, heard: Sequence[Heard], bins: Sequence[Bin]) -> None:
    """Write the picture: word error rate against length, with intervals.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("found no matplotlib, wanted it: pip install 'asr[train]'") from error
    matplotlib.use("svg")
    # Text stays text, and nothing that changes from run to run gets into the file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "asr"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for index, each in enumerate(heard):
        scores = [b.scores[index] for b in bins]
        # The mean length of a bin, shifted a little so that intervals do not hide each other.
        x = [s.words.reference_length / len(s.utterances) + 0.15 * index for s in scores]
        y = [100 * s.wer for s in scores]
        low = [100 * (s.wer - s.wer_interval[0]) for s in scores]
        high = [100 * (s.wer_interval[1] - s.wer) for s in scores]
        axes.errorbar(x, y, yerr=[low, high], marker="o", capsize=3, label=each.name)
    top = max(100 * s.wer_interval[1] for b in bins for s in b.scores)
    for each_bin in bins:
        first = each_bin.scores[0]
        place = first.words.reference_length / len(first.utterances)
        axes.annotate(f"n={len(first.utterances)}", (place, -0.06 * top), ha="center", fontsize=8)
    axes.set(
        xlabel="words in the utterance", ylabel="word error rate in %", ylim=(-0.1 * top, None)
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    os.replace(temporary, path)


def describe(heard: Sequence[Heard]) -> list[str]:
    """Return lines that say which weights were measured, how and when."""
    lines = []
    for each in heard:
        model, machine = each.summary["model"], each.summary["machine"]
        lines += [
            f"- {each.name}: {model['parameters'] / 1e6:.2f} M parameters, weights "
            f"`{model['sha256'][:12]}`, {each.summary['date'][:10]}, {machine['cpu']}:",
            f"  `{each.summary['command']}`",
        ]
    return lines


def write(options: argparse.Namespace, command: str) -> Path:
    """Write report and pictures from the kept hypotheses; return the report.

    Raises:
        ValueError: Hypotheses are missing or do not belong together.
    """
    lines = ["# Word error rate against length", "", f"Made by `{command}`, {date.today()}.", ""]
    for manifest in options.manifests:
        heard = [read(run, manifest) for run in options.runs]
        bins = bins_of(heard, options.edges)
        picture = f"{folder_of(Path(), manifest).name}.svg"
        draw(options.output / picture, heard, bins)
        lines += [f"## {manifest}", "", f"![word error rate against length]({picture})", ""]
        lines += [table(heard, bins), "", *describe(heard), ""]
    report: Path = options.output / "report.md"
    temporary = report.with_name("report.md.tmp")
    temporary.write_text("\n".join(lines), encoding="utf-8")
    temporary.replace(report)
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--manifests", nargs="+", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--edges", nargs="+", type=int, default=EDGES, help="words that begin bins")
    parser.add_argument("--redraw", action="store_true", help="from hypotheses that are there")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    try:
        for run in options.runs:
            name_of(run)
            for manifest in [] if options.redraw else options.manifests:
                recognise(run, manifest, ["--device", "cpu", "--threads", str(options.threads)])
        command = shlex.join(["python", "recipes/fixed_vector/report.py", *argv])
        print(f"{write(options, command)} written")
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
