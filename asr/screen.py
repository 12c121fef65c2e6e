"""The progress bar of a program, and what is printed beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Screen:
    """A progress bar on a terminal, and nothing where stderr is kept in a file.

    Args:
        bar: Of rich, or None.
        total: Number of recordings.
    """

    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=total)
        self.is_terminal = bar is not None and sys.stdout.isatty()

    def advance(self, done: float, name: str) -> None:
        """Show how many recordings are done, a share of the present one too, and its name."""
        if self._bar is None:
            return
        from rich.markup import escape

        self._bar.update(self._task, completed=done, description=escape(os.path.basename(name)))

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        if self._bar is None:
            yield
            return
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


@contextmanager
def open_screen(total: int, quiet: bool) -> Iterator[Screen]:
    """Show a bar while recordings are transcribed, if stderr is a terminal and it is wanted."""
    if quiet or not sys.stderr.isatty():
        yield Screen(None, total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        yield Screen(bar, total)
