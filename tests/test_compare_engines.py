"""`scripts/compare_engines.py` and `bench_speed.py`, with small programs that act as engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import bench_speed
import compare_engines
import engines
import engines_table
from engines_run import EngineError, measure_engine, pick_utterances

from asr.manifest import read_manifest, write_manifest

# Answers each file with the next of its texts, and notes that it was started.
PROGRAM = """
import json, os, sys
texts = json.loads({texts!r})
open({log!r}, "a").write("started\\n")
print(json.dumps({{"ready": True}}), flush=True)
for line, text in zip(sys.stdin, texts):
    assert line.strip().endswith(".wav") and os.path.exists(line.strip())
    print(json.dumps({{"text": text}}), flush=True)
"""
# Stands in for the Python of the engines' environment: it is asked to describe and to serve.
PYTHON = """#!{python}
import sys
with open({log!r}, "a") as log:
    print(*sys.argv[2:], file=log)
if sys.argv[2] == "describe":
    print({about!r})
elif {message!r}:
    sys.exit("loading\\n" + {message!r})
else:
    exec({program!r})
"""
ABOUT = {
    "missing": "", "version": "5.1", "settings": "as it comes",
    "weights": {"files": 1, "bytes": 7_000_000, "sha256": "1234"}, "installed_bytes": 9_000_000,
}  # fmt: skip
MARKS = f"{compare_engines.BEGIN}\n{compare_engines.END}\n"


@pytest.fixture
def texts(tone_manifest: Path) -> list[str]:
    return [utterance.text for utterance in pick_utterances(tone_manifest, 3)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def write_program(path: Path, texts: list[str], log: Path) -> str:
    source = PROGRAM.format(texts=json.dumps(texts), log=str(log))
    path.write_text(source, encoding="utf-8")
    return f"{sys.executable} {path}"


def write_python(
    path: Path, texts: list[str], log: Path, about: dict[str, Any] = ABOUT, message: str = ""
) -> Path:
    program = PROGRAM.format(texts=json.dumps(texts), log=str(log))
    source = PYTHON.format(
        python=sys.executable, log=str(log), about=json.dumps(about), message=message,
        program=program,
    )  # fmt: skip
    path.write_text(source, encoding="utf-8")
    path.chmod(0o755)
    return path


def compare(tmp_path: Path, *arguments: object) -> int:
    """Run the program with its output below `tmp_path` and without the optional normaliser."""
    return compare_engines.main(
        [
            *map(str, arguments), "--normalizer", "project", "--count", "3",
            "--results", str(tmp_path / "engines"), "--page", str(tmp_path / "ENGINES.md"),
            "--work", str(tmp_path / "work"),
        ]
    )  # fmt: skip


def result_of(tmp_path: Path, manifest: Path, engine: str) -> dict[str, Any]:
    path = tmp_path / "engines" / manifest.stem / f"{engine}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def starts(log: Path) -> int:
    return log.read_text(encoding="utf-8").count("started")


def test_a_program_is_measured_scored_and_shown(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path
) -> None:
    right = write_program(tmp_path / "right.py", texts, log)
    wrong = write_program(tmp_path / "wrong.py", ["", *texts[1:]], log)
    programs = ["--engines", "--program", f"right={right}", "--program", f"wrong={wrong}"]
    assert compare(tmp_path, tone_manifest, *programs) == 0
    words = [len(text.split()) for text in texts]
    for name, wer in (("right", 0.0), ("wrong", words[0] / sum(words))):
        result = result_of(tmp_path, tone_manifest, name)
        assert result["score"]["wer"] == pytest.approx(wer)
        (run,) = result["runs"]
        assert 0 < run["seconds"] < 60 and 0 < run["startup"] < 60
    folder = tmp_path / "engines" / tone_manifest.stem
    heard = engines_table.read_texts(folder / "wrong.jsonl", "hypothesis")
    assert [text for _, text in heard] == ["", *texts[1:]]
    page = (tmp_path / "ENGINES.md").read_text(encoding="utf-8")
    assert page.index("| right | 0.00 (0.00–0.00) |") < page.index("| wrong | ")
    assert "| PocketSphinx 5 | not run |" in page


def test_what_is_there_is_not_run_again(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path
) -> None:
    arguments = [tone_manifest, "--engines", "--program"]
    arguments.append("mine=" + write_program(tmp_path / "mine.py", texts, log))
    counts = []
    for more in ([], [], ["--runs", "3"], ["--runs", "3"], ["--again"], ["--threads", "2"]):
        assert compare(tmp_path, *arguments, *more) == 0
        counts.append(starts(log))
    assert counts == [1, 1, 3, 3, 4, 5]
    write_program(tmp_path / "mine.py", texts[::-1], log)  # "weights" that differ
    assert compare(tmp_path, *arguments, "--threads", "2") == 0
    assert starts(log) == 6
    assert len(result_of(tmp_path, tone_manifest, "mine")["runs"]) == 1


def test_other_files_make_old_results_stale(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path
) -> None:
    one = "one=" + write_program(tmp_path / "one.py", texts, log)
    two = "two=" + write_program(tmp_path / "two.py", texts, log)
    manifest = tmp_path / "set.jsonl"
    utterances = read_manifest(tone_manifest)
    write_manifest(manifest, utterances)
    assert compare(tmp_path, manifest, "--engines", "--program", one) == 0
    write_manifest(manifest, utterances[1:])
    assert compare(tmp_path, manifest, "--engines", "--program", two) == 0
    page = (tmp_path / "ENGINES.md").read_text(encoding="utf-8")
    assert "| one | not run |" in page
    assert "| two | not run" not in page and "| two |" in page


def test_an_engine_of_others_runs_in_its_own_python(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path
) -> None:
    python = write_python(tmp_path / "python", texts, log)
    weights = tmp_path / "weights"
    options = ["--engines", "pocketsphinx", "--engines-python", python]
    assert compare(tmp_path, tone_manifest, *options, "--weights", f"pocketsphinx={weights}") == 0
    calls = [line for line in log.read_text(encoding="utf-8").splitlines() if line != "started"]
    assert calls == [f"describe pocketsphinx {weights}", f"serve pocketsphinx {weights}"]
    result = result_of(tmp_path, tone_manifest, "pocketsphinx")
    assert result["score"]["wer"] == 0 and result["version"] == "5.1"
    page = (tmp_path / "ENGINES.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| PocketSphinx 5 |")]
    assert row.endswith("| 7 | 9 |")


@pytest.mark.parametrize(
    ("about", "message", "reason"),
    [
        ({"missing": "the package x is not installed"}, "", "the package x is not installed"),
        (ABOUT, "no weights at hub", "stopped with 1: no weights at hub"),
    ],
)
def test_an_optional_engine_says_why_it_was_not_run(
    about: dict[str, Any], message: str, reason: str,
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    python = write_python(tmp_path / "python", texts, log, about, message)
    few = {"vosk": engines.ENGINES["vosk"]}
    monkeypatch.setattr(compare_engines, "ENGINES", few)
    options = ["--engines-python", python]
    assert compare(tmp_path, tone_manifest, *options) == 0
    row = f"| Vosk small-en-us-0.15 | not run: {reason} |"
    assert row in (tmp_path / "ENGINES.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert compare(tmp_path, tone_manifest, *options, "--engines", "vosk") == 2
    error = capsys.readouterr().err
    assert error == f"compare_engines: vosk: {reason}\n"


def test_a_result_outlives_a_later_failure(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(compare_engines, "ENGINES", {"vosk": engines.ENGINES["vosk"]})
    for about in (ABOUT, {"missing": "gone"}):
        python = write_python(tmp_path / "python", texts, log, about)
        assert compare(tmp_path, tone_manifest, "--engines-python", python) == 0
        assert result_of(tmp_path, tone_manifest, "vosk")["score"]["wer"] == 0


def test_unusable_input_is_one_line(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    mine = "mine=" + write_program(tmp_path / "mine.py", texts, log)
    gone = tmp_path / "gone"
    lines = {
        (tmp_path / "none.jsonl", "--engines", "--program", mine): "none.jsonl: cannot be read",
        (empty, "--engines", "--program", mine): "found no utterances, wanted at least 1",
        (tone_manifest, "--engines", "--program", f"x={gone}"): f"x: {gone} cannot be run",
        (tone_manifest, "--engines", "vosk", "--engines-python", gone): f"{gone}: cannot be run",
        ("--table-only",): "found no set, wanted a folder with set.json",
    }
    for arguments, wanted in lines.items():
        if arguments == ("--table-only",):
            (tmp_path / "engines").rename(tmp_path / "moved")
        assert compare(tmp_path, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("compare_engines: ") and wanted in error
        assert error.count("\n") == 1
    assert not log.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.jsonl", "b/a.jsonl"],
        ["a.jsonl", "--count", "0"],
        ["a.jsonl", "--count", "1", "2"],
        ["a.jsonl", "--weights", "moonshine"],
        ["a.jsonl", "--weights", "moonshin=x"],
        ["a.jsonl", "--program", "default=x"],
        ["a.jsonl", "--program", "a/b=x"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare_engines.parse_arguments(arguments)


def test_a_stopped_comparison_goes_on(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    one = "one=" + write_program(tmp_path / "one.py", texts, log)
    two = "two=" + write_program(tmp_path / "two.py", texts, log)
    arguments = [tone_manifest, "--engines", "--program", one, "--program", two]
    measured = compare_engines.measure_engine

    def stop(name: str, *rest: Any) -> Any:
        if name == "two":
            raise KeyboardInterrupt
        return measured(name, *rest)

    monkeypatch.setattr(compare_engines, "measure_engine", stop)
    assert compare(tmp_path, *arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err and starts(log) == 1
    monkeypatch.setattr(compare_engines, "measure_engine", measured)
    assert compare(tmp_path, *arguments) == 0
    assert starts(log) == 2


def test_a_page_without_marks_is_left_alone(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    page = tmp_path / "ENGINES.md"
    page.write_text("# Mine\n", encoding="utf-8")
    mine = "mine=" + write_program(tmp_path / "mine.py", texts, log)
    assert compare(tmp_path, tone_manifest, "--engines", "--program", mine) == 2
    assert "ENGINES.md: wanted one line" in capsys.readouterr().err
    page.write_text(f"before\n{MARKS}after\n", encoding="utf-8")
    assert compare(tmp_path, "--table-only") == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "| mine | 0.00" in text


# One process, measured


def program(tmp_path: Path, source: str) -> list[str]:
    path = tmp_path / "engine.py"
    path.write_text("import json, os, sys, time\n" + source, encoding="utf-8")
    return [sys.executable, str(path)]


READY = 'print(json.dumps({"ready": True}), flush=True)\n'
ANSWER = 'for line in sys.stdin:\n    print(json.dumps({"text": str("TEXT")}), flush=True)\n'


def test_threads_and_cores_are_limited(tmp_path: Path) -> None:
    text = '[os.environ["OMP_NUM_THREADS"], len(os.sched_getaffinity(0))]'
    command = program(tmp_path, READY + ANSWER.replace('"TEXT"', text))
    assert measure_engine("x", command, ["a.wav"], cores=1).texts == ("['1', 1]",)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_and_processor_time_are_those_of_the_program(tmp_path: Path) -> None:
    """And not those of this process, which holds torch and is larger than the first of them."""
    import torch

    assert torch.get_num_threads() > 0
    small = measure_engine("x", program(tmp_path, READY + ANSWER), ["a.wav"] * 2, cores=1)
    work = "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\n"
    big = 'held = b"x" * 200 * 2**20\n' + READY
    slow = ANSWER.replace(
        "    print", "".join(f"    {x}\n" for x in work.splitlines()) + "    print"
    )
    large = measure_engine("x", program(tmp_path, big + slow), ["a.wav"] * 2, cores=1)
    assert small.megabytes is not None and large.megabytes is not None
    assert small.megabytes < 60 and 200 < large.megabytes < 300
    assert small.cpu_seconds is not None and large.cpu_seconds is not None
    assert small.cpu_seconds < 0.3 and 0.9 < large.cpu_seconds < 1.5
    assert large.seconds >= large.cpu_seconds - 0.05


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sys.exit('out of luck')", "x: stopped with 1: out of luck"),
        ("os._exit(3)", "x: stopped with 3: it said nothing"),
        (READY + "sys.stdin.readline()\nsys.exit('half way')", "x: stopped with 1: half way"),
        ("print('hello', flush=True)", "x: answered 'hello', wanted JSON with 'ready'"),
        (READY + "print(1, flush=True)", "x: answered '1', wanted JSON with 'text'"),
        ("time.sleep(60)", "x: not ready after 0.5 s"),
    ],
)
def test_a_program_that_fails_is_one_line(source: str, message: str, tmp_path: Path) -> None:
    limit = 0.5 if "sleep" in source else 60
    with pytest.raises(EngineError) as caught:
        measure_engine("x", program(tmp_path, source), ["a.wav", "b.wav"], 1, limit)
    assert str(caught.value) == message


# What is installed


def test_weights_are_counted_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"x" * 1000)
    (tmp_path / "weights" / "link.bin").symlink_to("a.bin")  # as hubs lay out their caches
    (tmp_path / "weights" / "README.md").write_text("notes", encoding="utf-8")
    first = engines.describe("default", str(tmp_path / "weights"))
    assert first["missing"] == "" and first["weights"]["bytes"] == 1000
    (tmp_path / "weights" / "a.bin").write_bytes(b"y" * 1000)
    second = engines.describe("default", str(tmp_path / "weights"))
    assert first["weights"]["sha256"] != second["weights"]["sha256"]
    assert "found no weights there" in engines.describe("default", str(tmp_path / "no"))["missing"]


def test_the_installation_is_all_that_a_package_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import jiwer

    def size_of(package: str, module: str) -> int:
        engine = engines.Engine("x", package, module, lambda _: str, lambda: Path("no"), "")
        monkeypatch.setitem(engines.ENGINES, "vosk", engine)
        return int(engines.describe("vosk", None)["installed_bytes"])

    own = sum(path.stat().st_size for path in Path(jiwer.__file__).parent.rglob("*.py"))
    with_rapidfuzz = size_of("jiwer", "jiwer")
    assert with_rapidfuzz > own + 0.9 * size_of("rapidfuzz", "rapidfuzz") > own


def test_an_engine_that_is_not_installed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engines.Engine("x", "x-1", "no_such_module", lambda _: str, Path, "")
    monkeypatch.setitem(engines.ENGINES, "vosk", engine)
    assert engines.describe("vosk", None) == {"missing": "the package x-1 is not installed"}


def test_a_wrong_request_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert engines.main(["serve", "nobody"]) == 2
    assert "engines: found 'serve nobody', wanted" in capsys.readouterr().err


# Scores and tables


def make_folder(
    tmp_path: Path, references: list[str], heard: dict[str, list[str]], **run: float
) -> Path:
    """Lay out results as if engines had run."""
    folder = tmp_path / "engines" / "some-set"
    count = len(references)
    about = {"set": "some-set", "utterances": count, "of": 10 * count, "audio_seconds": 60.0}
    engines_table.write_json(folder / "set.json", {**about, "files": "abc"})
    names = list(map(str, range(count)))
    engines_table.write_texts(
        folder / "references.jsonl", "reference", zip(names, references, strict=True)
    )
    figures = {"startup": 1.0, "seconds": 6.0, "cpu_seconds": 3.0, "megabytes": 50.0, "others": 0.0}
    for name, texts in heard.items():
        engines_table.write_texts(
            folder / f"{name}.jsonl", "hypothesis", zip(names, texts, strict=True)
        )
        result = {
            "title": name, "key": {"files": "abc", "threads": 1}, "version": "1", "runs": [
                {**figures, **run}, {**figures, **run, "seconds": 10.0}, {**figures, **run}
            ], "weights": {"bytes": 2_000_000}, "installed_bytes": 3_000_000,
            "machine": {"cpu": "CPU", "cores": 2}, "date": "2026-11-25T", "command": "python x",
        }  # fmt: skip
        engines_table.write_json(folder / f"{name}.json", result)
    return folder


def test_engines_are_held_against_ours(tmp_path: Path) -> None:
    references = ["a b c d", "e f g h"] * 20
    heard = {
        "default": ["a b c x", "e f g h"] * 20,
        "better": references,
        "same": ["a b c y", "e f g h"] * 20,
        "worse": ["a", "e f g h"] * 20,
    }
    folder = make_folder(tmp_path, references, heard)
    engines_table.score_set(folder, "project")
    table = engines_table.make_tables(folder.parent)
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:5]
    assert [row.split(" | ")[0][2:] for row in rows] == ["better", "default", "same", "worse"]
    cells = {row.split(" | ")[0][2:]: row.split(" | ") for row in rows}
    assert cells["default"][1].startswith("12.50 (") and cells["default"][2] == ""
    assert cells["better"][2].startswith("-12.50 (-")
    assert cells["same"][2] == "+0.00 (+0.00 to +0.00)"
    assert cells["worse"][2].startswith("+25.00 (+")
    assert cells["better"][3:8] == ["10.0", "20.0", "1.0", "50", "2"]  # of the median run
    assert "40 of 400 utterances of some-set" in table and "- better, default" not in table
    assert "the machine was idle otherwise" in table and "busy" not in table
    assert table.count("| not run |") == len(engines.ENGINES) - 1


def test_a_busy_machine_is_said(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["a"], {"default": ["a"]}, others=1.2)
    engines_table.score_set(folder, "project")
    table = engines_table.make_tables(folder.parent)
    assert "| RTFx, busy machine | RTFx by processor time, busy machine |" in table
    assert "**a busy machine**: other work used up to 1.2 cores" in table


def test_quoted_figures_stand_apart(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["a"], {"default": ["a"]})
    quoted = {"conditions": "Of others.", "columns": ["engine", "WER %"], "rows": [["Z", "4.2"]]}
    engines_table.write_json(folder.parent / "quoted.json", quoted)
    engines_table.score_set(folder, "project")
    table = engines_table.make_tables(folder.parent)
    assert table.endswith("Of others.\n\n| engine | WER % |\n|---|---|\n| Z | 4.2 |")


def test_damaged_results_are_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ["a", "b"], {"default": ["a", "b"]})
    engines_table.write_texts(folder / "default.jsonl", "hypothesis", [("0", "a")])
    with pytest.raises(EngineError, match="found 1 texts, wanted 2"):
        engines_table.score_set(folder, "project")
    (folder / "default.json").write_text("{", encoding="utf-8")
    with pytest.raises(EngineError, match="default.json: no readable JSON"):
        engines_table.score_set(folder, "project")


def test_the_committed_tables_are_made_of_the_committed_results() -> None:
    page = compare_engines.RECIPE / "ENGINES.md"
    text = page.read_text(encoding="utf-8")
    found = text.split(compare_engines.BEGIN)[1].split(compare_engines.END)[0].strip()
    assert found == engines_table.make_tables(compare_engines.RECIPE / "engines")


# The normaliser


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It cost 25 dollars, Mr. Smith!", "it cost twenty five dollars mister smith"),
        ("in 1999", "In nineteen ninety-nine."),
        ("the 3rd of 105", "the third of one hundred and five"),
        ("Don't. I'm sure we'll see", "do not i am sure we will see"),
        ("the colour of his grey programme", "the color of his gray program"),
        ("uh, naïve, um…", "naive"),
    ],
)
def test_style_is_no_error(one: str, other: str) -> None:
    pytest.importorskip("whisper_normalizer")
    normalize = engines_table.load_normalizer("whisper")
    assert normalize(one) == normalize(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("25", "twenty six"), ("four", "for"), ("I can", "I can't"), ("a colour", "a collar")],
)
def test_another_word_is_an_error(one: str, other: str) -> None:
    pytest.importorskip("whisper_normalizer")
    normalize = engines_table.load_normalizer("whisper")
    assert normalize(one) != normalize(other)


def test_a_missing_normaliser_is_said_first(
    tone_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    results = tmp_path / "engines"
    code = compare_engines.main([str(tone_manifest), "--results", str(results)])
    error = capsys.readouterr().err
    assert code == 2 and "pip install 'asr[compare]', or --normalizer project" in error
    assert not results.exists()


# Ours, for real, and the other program that uses the engines


@pytest.mark.slow
def test_our_recogniser_serves(
    tone_manifest: Path, texts: list[str], tiny_model_dir: Path, log: Path, tmp_path: Path
) -> None:
    from asr import load_model

    right = write_program(tmp_path / "right.py", texts, log)
    options = ["--engines", "default", "--model", tiny_model_dir, "--program", f"right={right}"]
    assert compare(tmp_path, tone_manifest, *options) == 0
    recognizer = load_model(tiny_model_dir, device="cpu")
    files = sorted((tmp_path / "work" / tone_manifest.stem).glob("*.wav"))
    folder = tmp_path / "engines" / tone_manifest.stem
    heard = engines_table.read_texts(folder / "default.jsonl", "hypothesis")
    assert [text for _, text in heard] == [recognizer.transcribe(str(x)).text for x in files]
    right_result = result_of(tmp_path, tone_manifest, "right")
    ours = result_of(tmp_path, tone_manifest, "default")
    assert right_result["difference"]["difference"] == pytest.approx(-ours["score"]["wer"])
    assert ours["weights"]["bytes"] > 0 and ours["installed_bytes"] > 1e6


def test_bench_speed_uses_the_same_engines(
    tone_manifest: Path, texts: list[str], log: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    python = write_python(tmp_path / "python", texts, log)
    readme = tmp_path / "README.md"
    readme.write_text(
        "a\n<!-- bench_speed.py engines: begin -->\n<!-- bench_speed.py engines: end -->\nb\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(bench_speed, "README", readme)
    arguments = f"{tone_manifest} --count 3 --runs 2 --engines pocketsphinx --readme engines"
    arguments += f" --engines-python {python} --folder {tmp_path / 'bench'}"
    monkeypatch.setattr(sys, "argv", ["bench_speed.py", *arguments.split()])
    assert bench_speed.main() == 0
    table = capsys.readouterr().out
    assert "| PocketSphinx 5 | 0.0 | " in table and starts(log) == 2
    assert table.strip() in readme.read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "bench" / "engines.json").read_text(encoding="utf-8"))
    assert [run["texts"] for run in kept["raw"]["pocketsphinx"]] == [texts, texts]
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--engines-python", str(tmp_path / "none")])
    assert bench_speed.main() == 2
    assert "none cannot be run" in capsys.readouterr().err
