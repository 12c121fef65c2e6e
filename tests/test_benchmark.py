"""The benchmark: figures against scores made by hand, its gates, and what it leaves on disk."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import asr.benchmark
from asr.audio import load_audio
from asr.benchmark import compare, main, recognise_utterances
from asr.checkpoint import ModelBundle
from asr.manifest import Utterance, read_manifest, write_manifest
from asr.pieces import recognize
from asr.recognizer import Recognizer
from asr.report import read_hypotheses, to_markdown
from asr.score import score_utterances
from asr.transcript import Segment, Transcript

RATE = 16000
TEXTS = ["The cat sat.", "on a mat", "with its hat", "and a bat!", "that was that", "indeed"]
SPOKEN = ["the cat sat", "on a mat", "with its hat", "and a bat", "that was that", "indeed"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return a manifest of six sounds, each 0.1 s longer than the one before."""
    generator = np.random.default_rng(0)
    utterances = []
    for number, text in enumerate(TEXTS):
        path = tmp_path / "audio" / f"u{number}.wav"
        path.parent.mkdir(exist_ok=True)
        samples = 0.1 * generator.standard_normal(RATE + 1600 * number)
        soundfile.write(path, samples, RATE)
        utterances.append(Utterance(str(path), len(samples) / RATE, text))
    write_manifest(tmp_path / "set.jsonl", utterances)
    return tmp_path / "set.jsonl"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> "type[Say]":
    """Let the model say given texts, found by the length of the sound."""

    def fake(_: Recognizer, waveforms: Sequence[NDArray[np.float32]]) -> list[Transcript]:
        numbers = [(len(waveform) - RATE) // 1600 for waveform in waveforms]
        return [
            Transcript((Segment(0.0, len(w) / RATE, Say.texts[n]),), len(w) / RATE)
            for n, w in zip(numbers, waveforms, strict=True)
        ]

    monkeypatch.setattr(Recognizer, "transcribe", fake)
    Say.texts = list(SPOKEN)
    return Say


class Say:
    """What the fake model says."""

    texts: list[str]


def run(manifest: Path, model: Path, name: str, *options: str) -> tuple[int, Path]:
    folder = manifest.parent / name
    arguments = [str(manifest), "--model", str(model), "--output-dir", str(folder), *options]
    return main(arguments), folder


def summary_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())  # type: ignore[no-any-return]


def test_a_real_model_gives_what_recognize_gives(
    manifest: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle
) -> None:
    code, folder = run(manifest, tiny_model_dir, "out", "--no-vad")
    assert code == 0
    utterances = read_manifest(manifest)
    waveforms = [load_audio(u.audio_filepath) for u in utterances]
    texts = [result.text for result in recognize(tiny_bundle, waveforms)]
    assert any(texts)
    assert list(read_hypotheses(folder / "hypotheses.jsonl").values()) == texts
    expected = score_utterances(
        zip([u.id for u in utterances], SPOKEN, texts, strict=True),
    )
    summary = summary_of(folder)
    assert summary["wer"] == expected.wer
    assert summary["cer_interval"] == list(expected.cer_interval)
    assert summary["words"] == expected.words.to_json()


def test_what_is_left_on_disk(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    say.texts[0] = "the mat sat down"
    say.texts[1] = "on mat"
    code, folder = run(manifest, tiny_model_dir, "out", "--threads", "1", "--method", "ctc")
    assert code == 0
    assert sorted(p.name for p in folder.iterdir()) == [
        "hypotheses.jsonl",
        "summary.json",
        "summary.md",
    ]
    lines = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["u0", "u1", "u2", "u3", "u4", "u5"]
    assert lines[0]["reference"] == "the cat sat"
    assert lines[0]["hypothesis"] == "the mat sat down"
    assert lines[0]["alignment"] == [
        ["hit", "the", "the"],
        ["substitution", "cat", "mat"],
        ["hit", "sat", "sat"],
        ["insertion", "", "down"],
    ]
    assert lines[1]["words"] == {"substitutions": 0, "deletions": 1, "insertions": 0, "hits": 2}
    assert lines[1]["duration"] == 1.1
    summary = summary_of(folder)
    assert summary["utterances"] == 6
    assert summary["wer"] == pytest.approx(3 / 16)
    assert summary["audio_seconds"] == pytest.approx(7.5)
    assert summary["rtfx"] > 0  # type: ignore[operator]
    assert summary["baseline"] is None
    assert summary["command"].startswith("python -m asr.benchmark ")  # type: ignore[attr-defined]
    assert summary["search"]["method"] == "ctc"  # type: ignore[index]
    assert len(summary["model"]["sha256"]) == 64  # type: ignore[index]
    assert {"torch", "jiwer", "python", "asr"} <= set(summary["versions"])  # type: ignore[call-overload]
    assert {"cpu", "cores", "threads", "gpu"} <= set(summary["machine"])  # type: ignore[call-overload]
    table = (folder / "summary.md").read_text()
    assert table == to_markdown(summary)
    assert "| WER | 18.75 %  |" in table
    output = capsys.readouterr()
    assert table in output.out
    assert output.err == ""


def test_rates_by_length_and_by_speaker(
    manifest: Path, tiny_model_dir: Path, say: type[Say]
) -> None:
    say.texts[5] = "in deed"
    _, folder = run(manifest, tiny_model_dir, "nameless")
    assert "by_speaker" not in summary_of(folder)
    utterances = read_manifest(manifest)
    names = ["anna", "anna", "anna", "anna", "anna", "bo"]
    named = [replace(u, speaker=n) for u, n in zip(utterances, names, strict=True)]
    write_manifest(manifest, named)
    _, folder = run(manifest, tiny_model_dir, "named")
    summary = summary_of(folder)
    first, *others = summary["by_length"]  # type: ignore[misc]
    assert (first["utterances"], first["reference_words"], first["errors"]) == (6, 16, 2)
    assert first["wer"] == summary["wer"] and first["wer_interval"] == summary["wer_interval"]
    assert [part["utterances"] for part in others] == [0, 0, 0]
    spread = summary["by_speaker"]
    assert (spread["best"], spread["worst"], spread["highest"]) == ("anna", "bo", 2.0)  # type: ignore[index]
    table = (folder / "summary.md").read_text(encoding="utf-8")
    assert "| under 5 s | 6 | 16 | 12.50 (" in table and "5–10 s" not in table
    assert "| 2 | 0.00 (anna) | 50.00 | 100.00 | 150.00 | 200.00 (bo) |" in table


def test_the_gate_on_the_rate(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    say.texts[5] = "in deed"
    assert run(manifest, tiny_model_dir, "out", "--max-wer", "0.125")[0] == 0
    assert run(manifest, tiny_model_dir, "out", "--max-wer", "0.12")[0] == 1
    assert "asr: WER is 12.50 %, wanted at most 12.00 %" in capsys.readouterr().err


def test_the_gate_against_an_earlier_run(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = run(manifest, tiny_model_dir, "before")
    baseline = str(before / "hypotheses.jsonl")
    assert run(manifest, tiny_model_dir, "same", "--baseline", baseline)[0] == 0
    say.texts = [text.replace("a", "o") for text in SPOKEN]
    say.texts[5] = "indood"
    capsys.readouterr()
    code, after = run(manifest, tiny_model_dir, "after", "--baseline", baseline)
    assert code == 1
    output = capsys.readouterr()
    assert "significantly worse than that of" in output.err
    assert f"against {baseline}: +" in output.out
    found = summary_of(after)["baseline"]
    assert found["file"] == baseline  # type: ignore[index]
    assert found["difference"] == summary_of(after)["wer"]  # type: ignore[index]
    assert found["interval"][0] > 0  # type: ignore[index]
    # The other way round it is an improvement, and no reason to fail.
    say.texts = list(SPOKEN)
    worse = str(after / "hypotheses.jsonl")
    assert run(manifest, tiny_model_dir, "better", "--baseline", worse)[0] == 0
    assert "significantly better" in capsys.readouterr().out


def test_a_run_can_replace_its_own_baseline(
    manifest: Path, tiny_model_dir: Path, say: type[Say]
) -> None:
    _, folder = run(manifest, tiny_model_dir, "out")
    own = str(folder / "hypotheses.jsonl")
    assert run(manifest, tiny_model_dir, "out", "--baseline", own)[0] == 0
    assert summary_of(folder)["baseline"]["difference"] == 0.0  # type: ignore[index]


def test_a_part_may_be_held_against_the_whole_but_not_the_reverse(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole = run(manifest, tiny_model_dir, "whole")
    baseline = str(whole / "hypotheses.jsonl")
    code, part = run(manifest, tiny_model_dir, "part", "--limit", "3", "--baseline", baseline)
    assert code == 0
    assert list(read_hypotheses(part / "hypotheses.jsonl")) == ["u0", "u2", "u4"]
    capsys.readouterr()
    baseline = str(part / "hypotheses.jsonl")
    assert run(manifest, tiny_model_dir, "whole", "--baseline", baseline)[0] == 2
    assert "found no hypothesis for 3 of 6 utterances, the first is 'u1'" in capsys.readouterr().err


def test_files_that_cannot_be_read_stop_it_or_are_left_out(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest.parent / "audio" / "u1.wav").unlink()
    (manifest.parent / "audio" / "u4.wav").write_text("no sound")
    code, folder = run(manifest, tiny_model_dir, "out")
    assert code == 2
    assert not folder.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "u1.wav: no such file" in lines[0]
    assert "u4.wav: " in lines[1]
    assert lines[2] == "asr: 2 files cannot be read; --skip-bad scores the others"
    code, folder = run(manifest, tiny_model_dir, "out", "--skip-bad")
    assert code == 0
    assert summary_of(folder)["utterances"] == 4
    assert summary_of(folder)["skipped"] == 2
    assert "2 unreadable ones left out" in (folder / "summary.md").read_text()


def test_damage_that_only_reading_shows(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.full(RATE, np.nan, np.float32)
    soundfile.write(manifest.parent / "audio" / "u2.wav", samples, RATE, subtype="FLOAT")
    assert run(manifest, tiny_model_dir, "out")[0] == 2
    assert "u2.wav: the sample at 0.000 s is nan" in capsys.readouterr().err
    code, folder = run(manifest, tiny_model_dir, "out", "--skip-bad")
    assert code == 0
    assert summary_of(folder)["skipped"] == 1


def test_ids_that_meet_again_are_told_apart(
    manifest: Path, tiny_model_dir: Path, say: type[Say]
) -> None:
    utterances = read_manifest(manifest)
    write_manifest(manifest, [replace(u, id="x") for u in utterances[:3]])
    _, folder = run(manifest, tiny_model_dir, "out")
    assert list(read_hypotheses(folder / "hypotheses.jsonl")) == ["x", "x#2", "x#3"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", [], "set.jsonl: found 0 utterances, wanted at least 1"),
        ("{", [], "set.jsonl, line 1: is not JSON"),
        (None, ["--limit", "0"], "--limit: found 0, wanted a whole number above 0"),
        (None, ["--max-wer", "10"], "--max-wer: found 10, wanted a fraction from 0 to 1"),
        (None, ["--model", "nowhere"], "nowhere: found no config.json"),
        (None, ["--baseline", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_what_a_user_can_do_wrong(
    content: str | None,
    options: list[str],
    message: str,
    manifest: Path,
    tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        manifest.write_text(content)
    code, folder = run(manifest, tiny_model_dir, "out", *options)
    assert code == 2
    assert not folder.exists()
    errors = capsys.readouterr().err
    assert errors.startswith("asr: ") and errors.count("\n") == 1
    assert message in errors


def test_references_without_a_word_are_refused(
    manifest: Path, tiny_model_dir: Path, say: type[Say], capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(manifest, [replace(u, text="!") for u in read_manifest(manifest)])
    assert run(manifest, tiny_model_dir, "out")[0] == 2
    assert "found no word in any reference text" in capsys.readouterr().err


def test_a_damaged_baseline_is_named_before_the_work(
    manifest: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = manifest.parent / "old.jsonl"
    baseline.write_text('{"id": "u0", "hypothesis": "a"}\n["u1"]\n')
    assert run(manifest, tiny_model_dir, "out", "--baseline", str(baseline))[0] == 2
    assert "old.jsonl, line 2: found '[\"u1\"]', wanted a JSON object" in capsys.readouterr().err


def test_earlier_hypotheses_are_scored_against_the_references_of_today(tmp_path: Path) -> None:
    score = score_utterances([("a", "one two", "one two"), ("b", "three four", "three")])
    lines = [
        {"id": "a", "reference": "other", "hypothesis": "one too"},
        {"id": "b", "reference": "words", "hypothesis": "three"},
        {"id": "c", "hypothesis": "of another utterance"},
    ]
    (tmp_path / "old.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert compare(score, tmp_path / "old.jsonl").difference == pytest.approx(-1 / 4)


def test_blocks_bound_the_audio_in_memory(
    manifest: Path, tiny_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = read_manifest(manifest)
    done: list[float] = []
    whole = recognise_utterances(tiny_bundle, utterances, tiny_bundle.config.search)
    monkeypatch.setattr(asr.benchmark, "_BLOCK_SECONDS", 3.0)
    parts = recognise_utterances(
        tiny_bundle, utterances, tiny_bundle.config.search, progress=done.append
    )
    assert parts.texts == whole.texts
    assert done == pytest.approx([1.5 + 1.4, 1.3 + 1.2, 1.1 + 1.0])
    assert parts.rtfx == pytest.approx(
        7.5 / (parts.seconds_reading + parts.seconds_recognising), rel=1e-3
    )


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for word in ("hypotheses.jsonl", "--baseline", "--max-wer", "0.1 is 10 %", "Exit code"):
        assert word in text
