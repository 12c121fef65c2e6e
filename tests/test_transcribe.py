"""From files to text: the library, the program, and everything a user can do wrong."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from random_model import save_random_model

import asr.batch
import asr.recognizer
import asr.transcribe
from asr.audio import AudioError
from asr.batch import recognize
from asr.checkpoint import ModelBundle, load_model
from asr.config import SearchConfig
from asr.recognizer import transcribe_file, transcribe_waveforms
from asr.transcribe import main

RATE = 16000
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tiny_bundle(tiny_model_dir: Path) -> ModelBundle:
    return load_model(tiny_model_dir)


@pytest.fixture
def noise() -> Array:
    generator = np.random.default_rng(3)
    return (0.1 * generator.standard_normal(2 * RATE)).astype(np.float32)


@pytest.fixture
def wav(tmp_path: Path, noise: Array) -> Path:
    path = tmp_path / "talk.wav"
    soundfile.write(path, noise, RATE)
    return path


def sounds(*lengths: int) -> list[Array]:
    generator = np.random.default_rng(7)
    return [(0.2 * generator.standard_normal(n)).astype(np.float32) for n in lengths]


def test_long_recordings_are_heard_in_pieces(tiny_bundle: ModelBundle) -> None:
    (noise,) = sounds(5 * RATE)
    pause = np.zeros(3 * RATE, np.float32)

    def detector(waveform: Array) -> Array:
        padded = np.pad(waveform, (0, -len(waveform) % 512)).reshape(-1, 512)
        return (np.abs(padded).max(axis=1) > 0.01).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asr.segment.speech_probabilities", detector)
        waveform = np.concatenate([noise, pause, noise])
        (transcript,) = transcribe_waveforms(tiny_bundle, [waveform], max_seconds=6.0)
    assert transcript.duration == 13.0
    assert [s.start for s in transcript.segments] == pytest.approx([0.0, 8.0], abs=0.3)
    assert [s.end for s in transcript.segments] == pytest.approx([5.0, 13.0], abs=0.3)
    for segment in transcript.segments:
        piece = waveform[round(segment.start * RATE) : round(segment.end * RATE)]
        assert segment.text == recognize(tiny_bundle, [piece])[0]


def test_silence_is_not_recognised(tiny_bundle: ModelBundle) -> None:
    silent, loud = transcribe_waveforms(tiny_bundle, [np.zeros(RATE, np.float32), sounds(RATE)[0]])
    assert silent.segments == () and silent.text == "" and silent.duration == 1.0
    assert len(loud.segments) == 1


def test_a_file_of_any_rate_and_channels(
    tiny_bundle: ModelBundle, noise: Array, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([noise, noise], axis=1), RATE)
    transcript = transcribe_file(tiny_bundle, tmp_path / "a.flac")
    # FLAC keeps 16 bits of a sample; the text is that of the same rounding.
    rounded = np.round(noise * 32768).astype(np.float32) / 32768
    assert transcript.text == recognize(tiny_bundle, [rounded])[0]
    soundfile.write(tmp_path / "b.ogg", noise, 44100)
    assert transcribe_file(tiny_bundle, tmp_path / "b.ogg").duration == pytest.approx(
        32000 / 44100, abs=0.01
    )


def test_a_recording_without_sound_is_an_error(tiny_bundle: ModelBundle, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioError, match=r"quiet\.wav: silent: found no sound in 1\.00 s"):
        transcribe_file(tiny_bundle, tmp_path / "quiet.wav")
    soundfile.write(
        tmp_path / "hum.wav", np.full(32 * RATE, 0.1) * np.linspace(0, 1, 32 * RATE), RATE
    )
    with pytest.raises(AudioError, match=r"hum\.wav: (silent|found no speech in 32\.00 s)"):
        transcribe_file(tiny_bundle, tmp_path / "hum.wav")


# The program.


def test_one_file_prints_its_text_alone(
    wav: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), str(wav)]) == 0
    output = capsys.readouterr()
    assert output.out == transcribe_file(tiny_bundle, wav).text + "\n"
    assert output.out.strip()
    assert output.err == ""


def test_several_files_print_their_names(
    wav: Path, tiny_model_dir: Path, tiny_bundle: ModelBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), str(wav), str(wav)]) == 0
    line = f"{wav}: {transcribe_file(tiny_bundle, wav).text}\n"
    assert capsys.readouterr().out == line + line


def test_json_is_one_object_a_line(
    wav: Path, tiny_model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tiny_model_dir), "--output", "json", str(wav), str(wav)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    data = json.loads(lines[0])
    assert data["path"] == str(wav)
    assert data["duration"] == 2.0
    assert data["segments"] == [{"start": 0.0, "end": 2.0, "text": data["text"]}]


def test_bad_files_give_a_line_each_and_the_others_are_done(
    wav: Path, tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.mp3").write_text("this is no sound\n" * 50)
    (tmp_path / "cut.wav").write_bytes(wav.read_bytes()[:9000])
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
            "",
        )
    ]
    files = [str(bad[0]), str(wav), *map(str, bad[1:]), str(wav)]
    assert main(["--model", str(tiny_model_dir), *files]) == 2
    output = capsys.readouterr()
    assert [line.partition(": ")[0] for line in output.out.splitlines()] == [str(wav), str(wav)]
    lines = output.err.splitlines()
    assert len(lines) == len(bad)
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
        (["--output", "xml"], "invalid choice: 'xml'"),
        (["--method", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_wrong_options_are_explained(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*options, "talk.wav"])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], SearchConfig(method="ctc", beam_size=2)),
        (["--greedy"], SearchConfig(method="greedy", beam_size=2)),
        (["--beam-size", "5"], SearchConfig(method="beam", beam_size=5)),
        (["--ctc-weight", "0.5"], SearchConfig(method="beam", beam_size=2, ctc_weight=0.5)),
        (["--method", "beam"], SearchConfig(method="beam", beam_size=2)),
    ],
)
def test_options_change_the_search_of_the_model(
    options: list[str], expected: SearchConfig, tiny_model_dir: Path
) -> None:
    arguments = ["--model", str(tiny_model_dir), "--device", "cpu", *options, "talk.wav"]
    args = asr.transcribe._parser().parse_args(arguments)
    assert asr.transcribe.load_from_arguments(args)[1] == expected


def test_ctrl_c_ends_quietly(
    wav: Path,
    tiny_model_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asr.recognizer, "transcribe_waveforms", interrupt)
    assert main(["--model", str(tiny_model_dir), str(wav)]) == 130
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_a_bar_and_a_file_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with asr.transcribe._progress_bar("folder/[talk].wav") as progress:
        assert progress is not None
        progress(1.0, 2.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with asr.transcribe._progress_bar("talk.wav") as progress:
        assert progress is None


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
    assert result.stderr.decode(errors="replace").count("\n") == 1


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


def test_importing_brings_in_nothing_heavy() -> None:
    program = "import sys, asr.transcribe; print(*{'torch', 'numpy', 'rich'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert result.stdout.strip() == b""
