"""`asr.memory`: freed memory goes back now and then, not after every file."""

from __future__ import annotations

import pytest

from asr import memory


def test_memory_is_given_back_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    times, trimmed = iter([100.0, 100.5, 101.1]), []

    class Library:
        def malloc_trim(self, pad: int) -> None:
            trimmed.append(pad)

    monkeypatch.setattr(memory.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(memory, "_returned", [0.0])
    memory.return_freed_memory()
    memory.return_freed_memory()
    assert len(trimmed) == 1
    memory.return_freed_memory()
    assert len(trimmed) == 2
