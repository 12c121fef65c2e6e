"""The progress bar: on a terminal, and nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from asr.screen import open_screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_a_bar_and_a_file_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with open_screen(4, quiet=False) as screen:
        screen.advance(0.5, "folder/[talk].wav")
        assert screen._bar.tasks[0].completed == 0.5
        assert screen._bar.tasks[0].description == r"\[talk].wav"
        with screen.cleared():
            pass
    with open_screen(4, quiet=True) as screen:
        assert screen._bar is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with open_screen(4, quiet=False) as screen:
        screen.advance(0.5, "talk.wav")
        assert screen._bar is None
