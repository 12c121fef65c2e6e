"""What a training run shows: a progress bar or lines, curves for TensorBoard, a JSON-lines log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Monitor:
    """Reports a run to its watcher; does nothing where it is not enabled.

    Args:
        output_dir: Gets ``log.jsonl`` and ``tensorboard/``.
        total_steps: Steps of the whole run.
        first_step: Steps done before.
        enabled: False on all processes but the first.
    """

    def __init__(self, output_dir: Path, total_steps: int, first_step: int, enabled: bool) -> None:
        self.enabled = enabled
        self.total_steps = total_steps
        self.first_step = first_step
        self.started = time.monotonic()
        self.bar: Any = None
        self.writer: Any = None
        if not enabled:
            return
        self.log = (output_dir / "log.jsonl").open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output_dir / "tensorboard"))
        except ImportError:
            self.message("no TensorBoard curves: tensorboard is not installed (extra 'train')")
        if sys.stderr.isatty():
            self._start_bar()

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bar = Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}"), console=Console(stderr=True),
        )  # fmt: skip
        self.task = self.bar.add_task("", total=self.total_steps, completed=self.first_step)
        self.bar.start()

    def message(self, text: str) -> None:
        """Print a line."""
        if self.enabled:
            (self.bar.console.print if self.bar else _print)(text)

    def report(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log values at a step, and show the numbers among them.

        Args:
            kind: ``train`` or ``dev``: the group of curves.
            step: Updates so far.
            values: Numbers become curves; anything goes into the log.
        """
        if not self.enabled:
            return
        record = {"kind": kind, "step": step, "time": round(time.time(), 1), **values}
        self.log.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.log.flush()
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if self.writer:
            for name, value in numbers.items():
                self.writer.add_scalar(f"{kind}/{name}", value, step)
        line = " ".join(f"{name}={value:.4g}" for name, value in numbers.items())
        if kind == "train" and self.bar:
            self.bar.update(self.task, completed=step, description=line)
        else:
            self.message(f"{kind} step {step}/{self.total_steps} {line}{self._time_left(step)}")

    def _time_left(self, step: int) -> str:
        done = step - self.first_step
        if self.bar or done <= 0:
            return ""
        seconds = (time.monotonic() - self.started) / done * (self.total_steps - step)
        return f" left={seconds / 60:.0f}min"

    def close(self) -> None:
        """End the bar and flush the curves."""
        if self.bar:
            self.bar.stop()
        if self.writer:
            self.writer.close()
        if self.enabled:
            self.log.close()


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
