"""The examples in docstrings and in the README do what they say."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from asr.checkpoint import DEFAULT_MODEL

PROJECT = Path(__file__).parents[1]

needs_model = pytest.mark.skipif(
    not DEFAULT_MODEL.is_dir(), reason="the package holds no trained model"
)


@needs_model
@pytest.mark.parametrize("module", ["recognizer"])
def test_docstrings(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    result = doctest.testmod(importlib.import_module(f"asr.{module}"))
    assert result.attempted > 0 and result.failed == 0


@needs_model
def test_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
