"""Make the table of `measure.sh` from the summaries of its benchmarks.

python recipes/finetune/report.py runs/finetune --output recipes/finetune/results.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr.arguments import Parser
from asr.report import write_whole

FIRST = "before"


def row(path: Path) -> list[str]:
    """Return the cells of one summary, `NAME/SET/summary.json`.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        low, high = summary["wer_interval"]
        rate = f"{100 * summary['wer']:.1f} ({100 * low:.1f}–{100 * high:.1f})"
        difference = ""
        if summary["baseline"]:
            low, high = summary["baseline"]["interval"]
            change = 100 * summary["baseline"]["difference"]
            difference = f"{change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        return [
            path.parts[-3], path.parts[-2], str(summary["utterances"]), rate, difference,
            summary["model"]["sha256"][:12], summary["date"][:10], f"`{summary['command']}`",
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no readable summary ({error})") from error


def table(folder: Path) -> str:
    """Return all summaries below a folder as Markdown, the model before first.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    paths = sorted(folder.glob("*/*/summary.json"), key=lambda p: (p.parts[-3] != FIRST, p))
    if not paths:
        raise ValueError(f"{folder}: found no summary, wanted those of measure.sh")
    head = (
        "| model | set | utterances | WER % (95 % interval) | against before | weights | date "
        "| command |\n|---|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(f"| {' | '.join(row(path))} |" for path in paths)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        text = f"# What fine-tuning does\n\nMade by `measure.sh`.\n\n{table(options.folder)}\n"
        write_whole(options.output, text)
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"{options.output} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
