"""What a training run shows: a progress bar or lines, curves for TensorBoard, a JSON-lines log."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr import plot
from asr.report import transcripts_to_markdown, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG, PICTURES = "log.jsonl", "report"


class Monitor:
    """Reports a run to its watcher; does nothing where it is not enabled.

    Args:
        output_dir: Gets ``log.jsonl``, ``tensorboard/`` and the pictures in ``report/``.
        total_steps: Steps of the whole run.
        first_step: Steps done before.
        enabled: False on all processes but the first.
    """

    def __init__(self, output_dir: Path, total_steps: int, first_step: int, enabled: bool) -> None:
        self.enabled = enabled
        self.total_steps = total_steps
        self.first_step = first_step
        self.started = time.monotonic()
        self.pictures_dir = output_dir / PICTURES
        self.bar: Any = None
        self.writer: Any = None
        self._hook = threading.excepthook
        self.draws = enabled and plot.available()
        if not enabled:
            return
        path = output_dir / LOG
        killed_in_a_line = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self.log = path.open("a", encoding="utf-8")
        if killed_in_a_line:
            self.log.write("\n")
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output_dir / "tensorboard"))
            self.writer.add_custom_scalars(_layout())
            threading.excepthook = self._in_thread
        except ImportError:
            self.message("no TensorBoard curves: tensorboard is not installed (extra 'train')")
        if not self.draws:
            self.message(plot.MISSING)
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

    def message(self, text: str, of_any_process: bool = False) -> None:
        """Print a line, of processes that do not report only if it concerns them alone."""
        if self.enabled or of_any_process:
            if self.bar:
                self.bar.console.print(text, markup=False, highlight=False)
            else:
                _print(text)

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log values at a step, and show them nowhere.

        Args:
            kind: What they are; ``start`` is where a process began or resumed the run.
            step: Updates so far.
            values: Anything that JSON can hold.
        """
        if not self.enabled:
            return
        times = {"time": round(time.time(), 1), "processor": round(time.process_time(), 2)}
        record = {"kind": kind, "step": step, **times, **values}
        try:
            self.log.write(json.dumps(record, ensure_ascii=False) + "\n")
            self.log.flush()
        except OSError as error:  # a full disk must not end a run
            self.message(f"step {step}: {self.log.name}: cannot be written ({error.strerror})")

    def report(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log values at a step, and show the numbers and the transcripts among them.

        Args:
            kind: ``train`` or ``dev``: the group of curves.
            step: Updates so far.
            values: Numbers become curves, ``examples_…`` ((id, reference, hypothesis) each)
                tables of transcripts; anything goes into the log.
        """
        if not self.enabled:
            return
        self.record(kind, step, values)
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        for name, value in values.items():
            if name in numbers:
                self._curves("add_scalar", f"{kind}/{name}", value, step)
            elif name.startswith("examples_"):
                table = transcripts_to_markdown(value)
                self._curves("add_text", f"{kind}/{name}", table, step)
        line = " ".join(f"{name}={value:.4g}" for name, value in numbers.items())
        if kind == "train" and self.bar:
            self.bar.update(self.task, completed=step, description=line)
        else:
            self.message(f"{kind} step {step}/{self.total_steps} {line}{self._time_left(step)}")

    def show(self, step: int, pictures: Mapping[str, Figure]) -> None:
        """Keep pictures: the newest of each name as ``report/NAME.png``, all in TensorBoard.

        Args:
            step: Updates so far.
            pictures: Figures by their names.
        """
        if not self.draws or not pictures:
            return
        import numpy as np
        from matplotlib.image import imread

        self.pictures_dir.mkdir(exist_ok=True)
        for name, figure in pictures.items():
            path = self.pictures_dir / f"{name}.png"
            write_whole(path, plot.to_png(figure))
            if not self.writer:
                continue
            pixels = (imread(path)[:, :, :3] * 255).astype(np.uint8)  # (height, width, RGB)
            self._curves("add_image", f"pictures/{name}", pixels, step, dataformats="HWC")

    def _curves(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of TensorBoard's writer; a full disk ends the curves and not the run."""
        try:
            if self.writer:
                getattr(self.writer, method)(*arguments, **options)
        except OSError as error:
            self._without_curves(error)

    def _in_thread(self, hook: threading.ExceptHookArgs) -> None:
        """Take what TensorBoard's own thread fails of; anything else is not ours."""
        if isinstance(hook.exc_value, OSError) and self.writer:
            self._without_curves(hook.exc_value)
        else:
            self._hook(hook)

    def _without_curves(self, error: OSError) -> None:
        self.writer, threading.excepthook = None, self._hook
        self.message(f"no more TensorBoard curves: they cannot be written ({error.strerror})")

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
            self._curves("close")
            threading.excepthook = self._hook
        if self.enabled:
            with suppress(OSError):  # said before
                self.log.close()


def _layout() -> dict[str, Any]:
    """Return what TensorBoard's "custom scalars" show: word error rates with their intervals."""
    charts = {}
    for method in ("ctc", "greedy"):
        rate = f"dev/wer_{method}"
        charts[f"WER {method}, 95 % interval"] = ["Margin", [rate, f"{rate}_low", f"{rate}_high"]]
    return {"dev": charts}


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
