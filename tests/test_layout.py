"""The rows of `asr`: imports only point to a lower row, and what that buys."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "asr"
MAX_LINES = 450
ROWS = {
    -2: "headers media names raw g2p texts memory",  # formats and names of files
    -1: "sndfile lexicon config lengths",
    0: "tokenizer normalize transcript audio distributed plot corpus order "
    "precision arguments score screen quantize prefix_tree language_model heard front_end "
    "denominator",
    1: "manifest optimize features augment breakdown model search archive batch vad ctc hotwords "
    "subtitles inputs imagine recurrent_lm word_lm",
    2: "vocabulary crf lm index pool segment align report outputs stepper",
    3: "confidence dataset loss monitor shards picture",
    4: "hotword_bonuses rescore word_lists",
    5: "word_search",
    6: "word_decoder word_parts",
    7: "decode",
    8: "checkpoint",
    9: "splice validate finetune probe run_report dry_run pieces options stream export",
    10: "trainer recognizer",
    11: "train benchmark server transcribe",
    12: "__main__",
}
ROW_OF = {module: row for row, modules in ROWS.items() for module in modules.split()}
WITHOUT_TORCH = "config tokenizer normalize transcript".split()
OUTSIDE = {"recipes", "scripts", "tests"}
MODULES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported_modules(source: str) -> set[str]:
    """Return the full names of all that a source imports, wherever in it the import stands.

    For `from asr import audio` that is "asr.audio": whether `audio` is a module or a name does
    not matter here, as the row table is asked about it afterwards.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "asr" if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "asr":
                found.update(f"asr.{alias.name}" for alias in node.names)
            else:
                found.add(module)
    return found


def own_imports(source: str) -> set[str]:
    """Return which modules of `asr` a source imports."""
    names = {name.split(".")[1] for name in imported_modules(source) if name.startswith("asr.")}
    return {name for name in names if not name.startswith("__")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import asr.audio", {"audio"}),
        ("from asr import audio, model", {"audio", "model"}),
        ("from . import audio", {"audio"}),
        ("from .audio import load_audio", {"audio"}),
        ("from asr.audio import load_audio as load", {"audio"}),
        ("def f():\n    import asr.train", {"train"}),
        ("if TYPE_CHECKING:\n    from asr.model import M", {"model"}),
        ("from asr import __version__\nimport torch, asr", set()),
    ],
)
def test_own_imports_are_found(source: str, expected: set[str]) -> None:
    assert own_imports(source) == expected


def test_every_module_has_a_row() -> None:
    unknown = [path.name for path in MODULES if path.stem not in ROW_OF]
    assert not unknown, f"not in the table of rows: {unknown}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_to_a_lower_row(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    row = ROW_OF[path.stem]
    wrong = {name: ROW_OF.get(name) for name in own_imports(source) if ROW_OF.get(name, 99) >= row}
    assert not wrong, f"{path.name} is in row {row} and imports {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_library_imports_no_program_and_no_test(path: Path) -> None:
    names = imported_modules(path.read_text(encoding="utf-8"))
    assert not {name.split(".")[0] for name in names} & OUTSIDE


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MAX_LINES, f"{path.name} has {lines} lines, fewer than {MAX_LINES} wanted"


def test_the_package_is_flat() -> None:
    nested = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]
    assert not nested


def test_importing_the_package_is_cheap() -> None:
    """Neither `asr` itself nor the modules of plain data may pull torch in."""
    imports = "; ".join(
        f"import asr.{name}" for name in WITHOUT_TORCH if (PACKAGE / f"{name}.py").exists()
    )
    program = f"import sys, asr; {imports}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=False)
    assert done.returncode == 0, "torch was imported"
