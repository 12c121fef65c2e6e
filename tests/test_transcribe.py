"""The program: what it prints and writes, and everything a user can do wrong."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from random_model import OF_WORDS, WORDS
from test_segment import buzz, hush

import asr.audio
import asr.options
import asr.picture
import asr.recognizer
import asr.transcribe
from asr.checkpoint import ModelBundle
from asr.config import SearchConfig
from asr.options import CHARACTER_SEARCH
from asr.recognizer import Recognizer
from asr.transcribe import main, make_parser
from asr.transcript import Segment

RATE = 16000
TALK = np.concatenate([hush(0.5), buzz(2.0), hush(0.5)])
Array = NDArray[np.float32]


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    soundfile.write(path, TALK, RATE)
    return path


def text_of(bundle: ModelBundle, path: Path) -> str:
    text = Recognizer(bundle).transcribe(path).text
    assert text.strip()
    return text


def test_one_file_prints_its_text_alone(
    wav: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), str(wav)]) == 0
    output = capsys.readouterr()
    assert output.out == text_of(tiny_bundle, wav) + "\n"
    assert output.err == ""


def test_several_files_print_their_names(
    wav: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), str(wav), str(wav)]) == 0
    line = f"{wav}: {text_of(tiny_bundle, wav)}\n"
    assert capsys.readouterr().out == line + line


def test_json_is_one_object_a_line(
    wav: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), "--output", "json", str(wav), str(wav)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    data = json.loads(lines[0])
    assert data["path"] == str(wav)
    assert data["duration"] == 3.0
    (segment,) = data["segments"]
    assert segment["text"] == data["text"] and 0 <= segment["start"] < segment["end"] <= 3.0
    assert [word["text"] for word in segment["words"]] == data["text"].split()


def test_bad_files_give_a_line_each_and_the_others_are_done(
    wav: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("this is no sound\n" * 50)
    (tmp_path / "cut.wav").write_bytes(wav.read_bytes()[:20000])
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    nan = np.full(RATE, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", nan, RATE, subtype="FLOAT")
    bad = [
        tmp_path / name
        for name in (
            "missing.wav",
            "empty.wav",
            "text.mp3",
            "cut.wav",
            "silent.wav",
            "none.wav",
            "nan.wav",
        )
    ]
    files = [str(bad[0]), str(wav), *map(str, bad[1:]), str(wav)]
    assert main(["--model", str(tiny_model_dir), *files]) == 2
    output = capsys.readouterr()
    assert [line.partition(": ")[0] for line in output.out.splitlines()] == [str(wav), str(wav)]
    *lines, summary = output.err.splitlines()
    assert len(lines) == len(bad) and summary == "asr: 7 of 9 recordings failed"
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith(f"asr: {path}: "), line


def test_a_model_that_is_not_there(
    wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tmp_path / "nowhere"), str(wav)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"asr: {tmp_path}/nowhere: found no config.json")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beam-size", "0"], "found '0', wanted a whole number above 0"),
        (["--ctc-weight", "30"], "found '30', wanted a number from 0 to 1"),
        (["--threads", "two"], "found 'two', wanted a whole number above 0"),
        (["--output", "xml"], "found 'xml', wanted one of txt, json, srt, vtt, tsv, ctm"),
        (["--channel", "0"], "found '0', wanted a whole number above 0"),
        (["--raw", "s16"], "found 's16', wanted one of s8 u8 s16le"),
        (["--hotword-weight", "-1"], "found '-1', wanted a number of at least 0"),
        (["--beem-size", "3"], "found unknown option --beem-size, did you mean --beam-size?"),
        (["--no-vat"], "found unknown option --no-vat, did you mean --no-vad?"),
        (["--xyzzy"], "found unknown option --xyzzy (--help"),
        (["--method", "magic"], "found 'magic', wanted one of words, beam, greedy, ctc"),
    ],
)
def test_wrong_options_are_explained(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*options, "talk.wav"])
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("asr: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], SearchConfig(method="ctc", beam_size=2)),
        (["--greedy"], SearchConfig(method="greedy", beam_size=2)),
        (["--fast"], SearchConfig(method="beam", beam_size=4, ctc_weight=1.0)),
        (["--accurate", "--beam-size", "20"], SearchConfig(method="beam", beam_size=20)),
        (["--beam-size", "5"], SearchConfig(method="beam", beam_size=5)),
        (["--ctc-weight", "0.5"], SearchConfig(method="beam", beam_size=2, ctc_weight=0.5)),
        (["--method", "beam"], SearchConfig(method="beam", beam_size=2)),
    ],
)
def test_options_change_the_search_of_the_model(
    options: list[str], expected: SearchConfig, tiny_model_dir: Path
) -> None:
    arguments = ["--model", str(tiny_model_dir), "--device", "cpu", *options, "talk.wav"]
    args = make_parser().parse_args(arguments)
    assert asr.options.load_from_arguments(args)[1] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["--fast"], {"beam_size": 200, "margin": 10.5, "rescore": 50}),
        (["--accurate"], {"beam_size": 3000, "margin": 12.5, "rescore": 400}),
        (["--beam-size", "5"], {"beam_size": 5}),
        (["--method", "beam"], CHARACTER_SEARCH),
        (["--method", "beam", "--fast"], {**CHARACTER_SEARCH, "beam_size": 4, "ctc_weight": 1.0}),
        (["--method", "ctc"], {"method": "ctc"}),
    ],
)
def test_options_of_a_model_that_searches_along_words(
    options: list[str], expected: dict[str, Any], words_model_dir: Path
) -> None:
    arguments = ["--model", str(words_model_dir), "--device", "cpu", *options, "talk.wav"]
    args = make_parser().parse_args(arguments)
    assert asr.options.load_from_arguments(args)[1] == replace(OF_WORDS, **expected)


def test_transcripts_along_words(
    wav: Path, words_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(words_model_dir), "--no-vad", str(wav)]
    assert main(command) == 0
    plain = capsys.readouterr().out
    assert set(plain.split()) <= set(WORDS) and plain.strip()
    assert main(["--hotwords", "act", "--hotword-weight", "30", *command]) == 0
    assert "act" in capsys.readouterr().out.split()
    assert main(["--output", "json", "--nbest", "3", *command]) == 0
    (segment,) = json.loads(capsys.readouterr().out)["segments"]
    assert 1 <= len(segment["nbest"]) <= 3


def test_options_that_mean_nothing_along_words_are_refused(
    wav: Path, words_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(words_model_dir), "--no-vad", str(wav)]
    assert main(["--length-bonus", "1", *command]) == 2
    error = capsys.readouterr().err
    assert "--length-bonus: found beside the method words" in error and error.count("\n") == 1
    assert main(["--method", "beam", "--length-bonus", "1", "--lm-weight", "0", *command]) in (0, 2)
    assert "--length-bonus" not in capsys.readouterr().err
    # It has a language model of words and none of characters.
    assert main(["--lm-weight", "0.5", *command]) == 0
    assert main(["--method", "beam", "--lm-weight", "0.5", *command]) == 2
    assert "has no language model" in capsys.readouterr().err


def test_a_model_without_words_says_so(
    wav: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), "--method", "words", str(wav)]) == 2
    error = capsys.readouterr().err
    assert "has no lexicon" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--beam-size", "8"], "--beam-size: found beside the method greedy"),
        (["--method", "ctc", "--lm-weight", "0.5"], "--lm-weight: found beside the method ctc"),
        (["--greedy", "--hotwords", "ab"], "--hotwords: found beside the method greedy"),
        (["--hotword-weight", "3"], "--hotword-weight: found no --hotwords"),
        (["--nbest", "3"], "--nbest: found no json among the formats"),
        (["--raw", "s16le:16000:2", "--channel", "3"], "--channel: found 2 channels in --raw"),
        (["--plot", "missing/talk.png"], "found no folder missing"),
        (["--length-bonus", "nan"], "found 'nan', wanted a number"),
        (["--threads", "99999999999"], "wanted at most 1024"),
        ([""], "found an empty name"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(
    options: list[str], message: str, wav: Path, tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["--model", str(tiny_model_dir), *options, str(wav)]
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    errors = capsys.readouterr().err
    assert code == 2 and message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_a_closed_stream_is_one_line(
    closed: str, wav: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    name = "-" if closed == "stdin" else str(wav)
    with monkeypatch.context() as patch:
        patch.setattr(sys, closed, None)
        assert main(["--model", str(tiny_model_dir), name]) == 2
    assert "closed, wanted" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_folders_become_folders_of_every_format(
    wav: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle, tmp_path: Path
) -> None:
    (tmp_path / "talks" / "deep").mkdir(parents=True)
    soundfile.write(tmp_path / "talks" / "deep" / "a.flac", TALK, RATE)
    os.link(wav, tmp_path / "talks" / "a.wav")
    out = tmp_path / "out"
    options = ["--model", str(tiny_model_dir), "--output", "srt,txt", "--output-dir", str(out)]
    assert main([*options, str(tmp_path / "talks"), str(wav)]) == 0
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file())
    places = ("a", "deep/a", "talk")
    made = [f"{place}.{extension}" for place in places for extension in ("srt", "txt")]
    assert names == sorted(["asr-finished.jsonl", *made])
    text = (out / "talk.txt").read_text()
    assert text == text_of(tiny_bundle, wav) + "\n" == (out / "a.txt").read_text()
    assert (out / "talk.srt").read_text().startswith("1\n00:00:0")


def test_resuming_does_what_is_not_finished(
    wav: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    others = [tmp_path / f"{name}.wav" for name in "abc"]
    for path in others:
        os.link(wav, path)
    out = tmp_path / "out"
    options = ["--model", str(tiny_model_dir), "--output-dir", str(out)]
    heard: list[int] = []
    recognize = asr.recognizer.recognize

    def count(bundle: ModelBundle, waveforms: list[Array], *rest: Any, **named: Any) -> object:
        heard.append(len(waveforms))
        return recognize(bundle, waveforms, *rest, **named)

    monkeypatch.setattr(asr.recognizer, "recognize", count)
    assert main([*options, str(wav), str(others[0])]) == 0
    everything = [str(wav), *map(str, others)]
    assert main([*options, "--resume", *everything]) == 0
    assert main([*options, "--resume", *everything]) == 0
    assert main([*options, "--resume", "--beam-size", "3", *everything]) == 0
    assert heard == [2, 2, 0, 4]
    assert capsys.readouterr() == ("", "")


def test_a_long_text_is_printed_as_it_grows(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([TALK, hush(7), TALK, hush(7), TALK]), RATE)
    written: list[str] = []

    class Output(io.StringIO):
        def flush(self) -> None:
            written.append(self.getvalue())

    options = ["--model", str(tiny_model_dir), "--batch-seconds", "1", str(path)]
    monkeypatch.setattr(sys, "stdout", Output())
    assert main(options) == 0
    whole = written[-1]
    assert whole.count("\n") == 1 and whole.endswith("\n")
    assert 3 <= len(set(written)) <= 5
    assert all(whole.startswith(part) for part in written)

    class TerminalOutput(Terminal, Output):
        pass

    monkeypatch.setattr(sys, "stdout", TerminalOutput())
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert main(options) == 0
    assert written[-1].split() == whole.split() and written[-1].count("\n") == 3


def test_standard_input(
    wav: Path,
    tiny_model_dir: Path,
    tiny_bundle: ModelBundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def printed(content: bytes, *arguments: str, exit_code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["--model", str(tiny_model_dir), *arguments]) == exit_code
        return capsys.readouterr()

    wanted = (text_of(tiny_bundle, wav) + "\n", "")
    samples, _ = soundfile.read(wav, dtype="int16")
    assert printed(wav.read_bytes(), "-") == wanted
    assert printed(samples.tobytes(), "--raw", "s16le:16000:1", "-") == wanted
    assert printed(os.fsencode(wav), "--files-from", "-") == wanted
    complaint = "asr: standard input: is empty (0 bytes), wanted a sound file\n"
    assert printed(b"", "-", exit_code=2) == ("", complaint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "found no FILE, wanted at least one (--help shows examples)"),
        (["--resume", "a.wav"], "--resume: found no --output-dir"),
        (["--output", "srt,vtt", "a.wav"], "--output: several formats need --output-dir"),
        (["--output", "srt", "a.wav", "b.wav"], "several recordings need --output-dir"),
        (["-", "-"], "-: standard input can be read only once"),
        (["--files-from", "nowhere"], "nowhere: cannot be read"),
        (["*.nothing"], "*.nothing: found no file that matches"),
    ],
)
def test_options_that_contradict_each_other(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    output = capsys.readouterr()
    assert output.out == "" and message in output.err
    assert output.err.startswith("asr: ") and output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--greedy", "--beam-size", "8"], "--beam-size: found beside the method greedy"),
        (["--resume"], "--resume: found no --output-dir"),
        (["--output", "srt"], "--output srt: several recordings need --output-dir"),
        (["--output", "srt,vtt"], "--output: several formats need --output-dir"),
        (["--plot", "missing/talk.png"], "found no folder missing"),
    ],
)
def test_no_file_is_opened_for_options_that_contradict_each_other(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((RATE, 2)), RATE)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(asr.audio, "open_audio", opened)
    assert main(["--channel", "all", *options, str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and output.out == ""


def test_a_picture_needs_one_reading(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Standard input cannot be read again, and a long recording is drawn in part."""
    pytest.importorskip("matplotlib")
    content, picture = io.BytesIO(), tmp_path / "talk.png"
    soundfile.write(
        content, np.concatenate([TALK, hush(7), TALK, hush(7), TALK]), RATE, format="WAV"
    )
    monkeypatch.setattr(asr.picture, "MAX_SEGMENTS", 2)
    drawn: list[tuple[float, float, int]] = []

    def draw(part: object, segment: Segment, piece: Array, *_: object) -> None:
        drawn.append((segment.start, segment.end, len(piece)))

    monkeypatch.setattr(asr.picture, "_draw_segment", draw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.getvalue())))
    options = ["--model", str(tiny_model_dir), "--batch-seconds", "1", "--plot", str(picture)]
    assert main([*options, "-"]) == 0
    assert capsys.readouterr().err == (
        f"asr: {picture}: shows the first 2 of 3 pieces of speech, to 0:12 of 0:23\n"
    )
    assert picture.is_file() and len(drawn) == 2
    for start, end, samples in drawn:
        assert samples == round((end - start) * RATE)
    assert drawn[0][1] < drawn[1][0]


def test_channels_and_times_on_request(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([TALK, 0.9 * TALK], axis=1), RATE)
    options = ["--model", str(tiny_model_dir), "--verbose", str(path)]
    assert main([*options, "--channel", "all"]) == 0
    output = capsys.readouterr()
    names = [line.partition(": ")[0] for line in output.out.splitlines()]
    assert names == [f"{path} channel 1", f"{path} channel 2"]
    assert output.err.count("\n") == 1 and "asr: 6.0 s of sound in" in output.err
    assert main([*options, "--channel", "3"]) == 2
    assert f"asr: {path}: found 2 channels, wanted channel 3" in capsys.readouterr().err


def test_ctrl_c_ends_quietly(
    wav: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asr.recognizer, "recognize", interrupt)
    assert main(["--model", str(tiny_model_dir), str(wav)]) == 130
    assert capsys.readouterr().err == ""


def run(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "asr.transcribe", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def test_the_program_as_a_user_starts_it(wav: Path, tiny_model_dir: Path) -> None:
    odd = os.fsencode(wav.parent) + b"/od\xff d.wav"  # a name that is not UTF-8
    os.link(wav, odd)
    result = run("--model", str(tiny_model_dir), str(wav), odd, b"nowh\xff re.wav")
    assert result.returncode == 2
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 2
    assert "od\\xff d.wav: " in lines[1]
    assert result.stderr.decode() == (
        "asr: nowh\\xff re.wav: no such file\nasr: 1 of 3 recordings failed\n"
    )


def test_names_stay_in_their_line(
    wav: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good\nname.wav", tmp_path / "bad\nname\x1b[31m.wav"
    good.write_bytes(wav.read_bytes())
    bad.write_bytes(wav.read_bytes()[:99])
    assert main(["--model", str(tiny_model_dir), str(good), str(bad)]) == 2
    output = capsys.readouterr()
    assert output.out.startswith(f"{tmp_path}/good\\nname.wav: ") and output.out.count("\n") == 1
    assert output.err.startswith(f"asr: {tmp_path}/bad\\nname\\x1b[31m.wav: truncated: found")
    assert output.err.count("\n") == 2


def fake_torch(folder: Path, source: str) -> dict[str, str]:
    """Return an environment in which importing torch runs `source`."""
    (folder / "torch.py").write_text(source)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_help_explains_itself_without_waiting_for_torch(tmp_path: Path) -> None:
    result = run("--help", env=fake_torch(tmp_path, "raise SystemExit('torch was imported')"))
    assert result.returncode == 0
    text = result.stdout.decode()
    for word in ("examples:", "--model", "--output", "--threads", "--beam-size", "--device"):
        assert word in text


def test_ctrl_c_while_starting_leaves_no_traceback(tmp_path: Path) -> None:
    source = (  # a job in the background would ignore the signal
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT); time.sleep(50)"
    )
    result = run("talk.wav", env=fake_torch(tmp_path, source))
    assert (result.returncode, result.stdout, result.stderr) == (130, b"", b"")


def test_a_reader_that_leaves_is_no_error(wav: Path, tiny_model_dir: Path) -> None:
    command = [sys.executable, "-m", "asr.transcribe", "--model", str(tiny_model_dir), str(wav)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 141
    assert errors == b""


def test_the_compiler_of_torch_is_not_imported(wav: Path) -> None:
    """It takes 0.9 s, and whoever touches it by chance makes every start longer."""
    program = (
        "import sys, asr.transcribe as t; t.main([sys.argv[1], '--quiet']); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(wav)], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_importing_brings_in_nothing_heavy() -> None:
    program = "import sys, asr.transcribe; print(*{'torch', 'numpy', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout.strip() == b""
