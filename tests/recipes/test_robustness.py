"""`recipes/librispeech/robustness.py`: conditions are what they say, the page what was found."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

REPOSITORY = Path(__file__).parents[2]
RECIPE = REPOSITORY / "recipes" / "librispeech"
sys.path.insert(0, str(RECIPE))

import conditions  # noqa: E402
import robustness  # noqa: E402
from conditions import CONDITIONS, RATE, Waveform, active_power  # noqa: E402

from asr.audio import load_audio  # noqa: E402

NAMED = {condition.name: condition for condition in CONDITIONS}
SPEECH = load_audio(REPOSITORY / "data/demo/sense_and_sensibility.flac")
VOICES = [SPEECH[start * RATE :][: 2 * RATE] for start in range(5)]


def change(name: str, waveform: Waveform = SPEECH, utterance: str = "u") -> Waveform:
    return NAMED[name](waveform, utterance, lambda: VOICES)


def share(waveform: Waveform, low: float, high: float) -> float:
    """Return the share of a waveform's power between two frequencies."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return float(power[(frequencies >= low) & (frequencies < high)].sum() / power.sum())


@pytest.mark.parametrize("kind", ["white", "pink", "babble"])
@pytest.mark.parametrize("snr", [20, 10, 5])
def test_noise_is_as_loud_as_it_says(kind: str, snr: int) -> None:
    speech = 0.1 * SPEECH  # soft, so that nothing need be scaled down
    noise = change(f"{kind}-{snr}dB", speech) - speech
    found = 10 * np.log10(active_power(speech) / np.square(noise, dtype=np.float64).mean())
    assert found == pytest.approx(snr, abs=0.05)
    # The same noise at every level, and another for another utterance.
    softer = change(f"{kind}-20dB", speech) - speech
    assert np.corrcoef(noise, softer)[0, 1] > 0.99
    other = change(f"{kind}-{snr}dB", speech, "v") - speech
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.5


def test_pauses_do_not_count_as_speech() -> None:
    tone = np.sin(np.arange(RATE)).astype(np.float32)
    padded = np.concatenate([np.zeros(5 * RATE, np.float32), tone])
    assert active_power(padded) == pytest.approx(0.5, rel=0.05)
    assert active_power(np.zeros(100, np.float32)) == 0.0


def test_colours_fall_as_they_should() -> None:
    """Octave by octave: white has twice the power above, pink the same, brown half."""
    for exponent, ratio in ((0, 2.0), (1, 1.0), (2, 0.5)):
        chance = conditions.random_generator("test")
        noise = conditions.coloured_noise(60 * RATE, chance, exponent)
        found = share(noise, 1000, 2000) / share(noise, 500, 1000)
        assert found == pytest.approx(ratio, rel=0.1)


def test_the_telephone_passes_its_band_alone() -> None:
    noise = conditions.coloured_noise(5 * RATE, conditions.random_generator("test"), 0)
    heard = change("telephone", 0.1 * noise)
    assert share(noise, 0, 200) + share(noise, 3600, 8001) > 0.5
    assert share(heard, 0, 200) + share(heard, 3600, 8001) < 0.01  # what is left is of the mu-law
    assert share(heard, 300, 3400) > 0.98
    assert len(heard) == pytest.approx(len(noise), abs=2)


def test_mp3_has_its_bit_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def read(file: io.BytesIO, rate: int) -> Waveform:
        sizes.append(len(file.getvalue()))
        assert soundfile.info(file).format == "MP3"
        file.seek(0)
        return load_audio(file, rate)

    monkeypatch.setattr(conditions, "load_audio", read)
    noise = 0.1 * conditions.coloured_noise(20 * RATE, conditions.random_generator("test"), 0)
    heard = change("mp3", noise)
    assert 8 * sizes[0] / 20 == pytest.approx(32000, rel=0.02)
    assert len(heard) == pytest.approx(len(noise), abs=RATE / 5)


def test_a_room_falls_by_60_db_in_its_time() -> None:
    click = np.zeros(RATE, np.float32)
    click[0] = 0.1
    for seconds in (0.3, 0.6):
        response = change(f"room-{seconds}s", click).astype(np.float64)
        direct, tail = response[0], response[1:]
        assert np.square(tail).sum() == pytest.approx(direct**2, rel=0.01)
        energy = np.cumsum(np.square(tail)[::-1])[::-1]  # Schroeder's integral
        level = 10 * np.log10(energy[: int(0.7 * seconds * RATE)] / energy[0])
        slope = np.polyfit(np.arange(len(level)) / RATE, level, 1)[0]
        assert -60 / slope == pytest.approx(seconds, rel=0.15)


def test_levels() -> None:
    assert np.square(change("quiet")).mean() == pytest.approx(
        np.square(SPEECH).mean() / 1000, rel=0.01
    )
    heard = change("clipped")
    assert (np.abs(heard) == 1.0).sum() > 100
    loud = SPEECH / np.abs(SPEECH).max()
    inside = np.abs(loud) < 0.25
    np.testing.assert_allclose(heard[inside], 4 * loud[inside], atol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_conditions_are_reproducible_waveforms(name: str) -> None:
    heard = change(name)
    np.testing.assert_array_equal(heard, change(name))
    assert heard.dtype == np.float32 and np.abs(heard).max() <= 1.0
    assert np.isfinite(heard).all() and len(heard) >= len(SPEECH) - 2
    assert np.array_equal(heard, SPEECH) is (name == "clean")
    assert np.isfinite(change(name, np.zeros(RATE, np.float32))).all()


@pytest.mark.parametrize("kind", conditions.NON_SPEECH)
def test_sounds_without_speech_are_reproducible_and_as_loud_as_wanted(kind: str) -> None:
    sound = conditions.make_non_speech(kind, 3, 2.0)
    assert sound.shape == (2 * RATE,) and np.isfinite(sound).all() and np.abs(sound).max() <= 1
    np.testing.assert_array_equal(sound, conditions.make_non_speech(kind, 3, 2.0))
    loudness = np.sqrt(np.square(sound, dtype=np.float64).mean())
    wanted = conditions.NON_SPEECH[kind][0]
    assert loudness == pytest.approx(wanted, rel=0.2)  # clicks reach full scale
    other = conditions.make_non_speech(kind, 4, 2.0)
    assert np.array_equal(sound, other) is (wanted == 0.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a set of two, and little to hear."""
    monkeypatch.chdir(tmp_path)
    lines = (REPOSITORY / "data/tiny/test.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    for item in items:
        item["audio_filepath"] = str(REPOSITORY / "data/tiny" / item["audio_filepath"])
    text = "".join(json.dumps(item) + "\n" for item in items)
    for name in ("some", "others"):
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    monkeypatch.setattr(robustness, "RECORDINGS", 1)
    monkeypatch.setattr(robustness, "SECONDS", 1.0)
    return tmp_path


def test_one_command_makes_the_page(folder: Path, tiny_model_dir: Path) -> None:
    settings = json.loads((tiny_model_dir / "config.json").read_text(encoding="utf-8"))
    assert settings["data"]["train_manifests"] == []
    command = f"--model {tiny_model_dir} --name tiny --manifests . --sets some others --limit 14"
    command = [*command.split(), "--threads", "1", "--results", "made"]
    assert robustness.main(command) == 0
    page = (folder / "made/ROBUSTNESS.md").read_text(encoding="utf-8")
    for condition in CONDITIONS:
        assert f"| {condition.text} | " in page
        file = folder / "runs/robustness/tiny/some" / f"{condition.name}.jsonl"
        assert len(file.read_text(encoding="utf-8").splitlines()) == 14
    for kind in conditions.NON_SPEECH:
        assert f"| {kind} | " in page
    assert "| others | 14 | " in page and "seen in training" not in page
    figures = json.loads((folder / "made/robustness/tiny.json").read_text(encoding="utf-8"))
    clean, noisy = (figures["sets"]["some"]["conditions"][n] for n in ("clean", "white-5dB"))
    assert clean["against_clean"] is None
    difference = noisy["wer"] - clean["wer"]
    assert noisy["against_clean"]["difference"] == pytest.approx(difference)
    assert figures["sets"]["others"]["conditions"]["clean"]["words"] == clean["words"]
    # The page is of the figures alone, and both are the same when made again.
    (folder / "made/ROBUSTNESS.md").unlink()
    assert robustness.main(["--table-only", "--results", "made"]) == 0
    assert (folder / "made/ROBUSTNESS.md").read_text(encoding="utf-8") == page


def test_training_data_is_called_so() -> None:
    path = RECIPE / robustness.RESULTS / "default.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    seen = {name for name, values in result["sets"].items() if values["seen_in_training"]}
    assert seen == {"commonvoice"}
    assert "| commonvoice, **seen in training** |" in robustness.make_page({"default": result})


def test_the_page_that_ships_is_made_from_the_figures_that_ship() -> None:
    text = (RECIPE / robustness.PAGE).read_text(encoding="utf-8")
    made = robustness.make_page(robustness.read_results(RECIPE / robustness.RESULTS))
    assert text.split(robustness.BEGIN)[1].split(robustness.END)[0].strip() == made.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--sets nowhere", "nowhere.jsonl: not found, wanted a manifest"),
        ("--sets some --limit -1", "--limit: found -1, wanted 0 or more"),
        ("--sets some --limit 3", "for the babble, wanted at least 8"),
        ("--sets empty", "empty.jsonl: found 0 utterances, wanted at least 1"),
        ("--sets broken", "gone.wav: no such file"),
        ("--sets some --model nowhere --name x", "nowhere"),
        ("--table-only", "damaged.json: no readable figures"),
    ],
)
def test_errors_are_one_line(
    folder: Path,
    tiny_model_dir: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "broken.jsonl").write_text(
        '{"audio_filepath": "gone.wav", "duration": 1, "text": "a"}\n', encoding="utf-8"
    )
    (folder / "results/robustness").mkdir(parents=True)
    (folder / "results/robustness/damaged.json").write_text('{"sets": {}}', encoding="utf-8")
    command = [*arguments.split(), "--manifests", ".", "--results", "results"]
    if "--model" not in arguments:
        command += ["--model", str(tiny_model_dir)]
    assert robustness.main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "results/ROBUSTNESS.md").exists()


def test_another_model_does_not_take_the_name_of_the_shipped_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert robustness.main(["--model", "runs/x"]) == 2
    assert "--name: found none beside --model" in capsys.readouterr().err
