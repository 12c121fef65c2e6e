"""Recognisers, ours and those of others, as programs: paths of WAV files in, texts out.

    echo speech.wav | python scripts/engines.py serve default
    echo speech.wav | runs/engines-venv/bin/python scripts/engines.py serve moonshine FOLDER
    runs/engines-venv/bin/python scripts/engines.py describe pocketsphinx

`serve ENGINE [WEIGHTS]` prints a line of JSON when the engine is ready, `{"ready": true}`, and then
one for each line of its input, which is the path of a WAV file of 16-bit samples at 16 kHz:
`{"text": "what was said"}`. Any program that does the same can be compared with these.
`describe ENGINE [WEIGHTS]` prints what is installed, or what is missing, without loading it.

Without WEIGHTS, engines that have none in their package download them as their authors
intend. `bench_speed.py` and `compare_engines.py` start this file, others' engines with the Python
of an environment of their own, where the project is not installed:

    python -m venv runs/engines-venv
    runs/engines-venv/bin/pip install pocketsphinx useful-moonshine-onnx vosk faster-whisper
    npm pack @moonshine-ai/moonshine-js     # has Moonshine's weights in dist/model/tiny/quantized
"""

# Nothing but the standard library at the top: this runs in environments without the project.
from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Recognise = Callable[[str], str]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
HUB = Path(os.environ.get("HF_HOME") or CACHE / "huggingface") / "hub"


@dataclass(frozen=True)
class Engine:
    """A recogniser as its authors set it up.

    Attributes:
        title: Of its row in a table.
        package: The distribution that has to be installed.
        module: What is imported of it.
        load: Takes the place of the weights, or None for its own, and returns the recogniser.
        weights: Where its own weights lie (once they are downloaded, for those that do that).
        settings: What was chosen, for the record.
    """

    title: str
    package: str
    module: str
    load: Callable[[str | None], Recognise]
    weights: Callable[[], Path]
    settings: str


def read_samples(path: str) -> bytes:
    """Return the 16-bit samples of a WAV file."""
    with wave.open(path) as file:
        return file.readframes(file.getnframes())


def load_ours(folder: str | None, *options: str) -> Recognise:
    """Return our own recogniser with options of the command line."""
    from asr.options import load_from_arguments
    from asr.recognizer import Recognizer
    from asr.transcribe import make_parser

    model = ["--model", folder] if folder else []
    args = make_parser().parse_args([*model, *options, "--device", "cpu", "file"])
    recognizer = Recognizer(*load_from_arguments(args), words=False)
    return lambda path: recognizer.transcribe(path).text


def load_moonshine(folder: str | None) -> Recognise:
    """Return Moonshine tiny, from a folder or downloaded."""
    import moonshine_onnx
    import numpy as np
    import onnxruntime

    # Its threads take every core, whatever the process may use, unless they are told otherwise.
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = len(os.sched_getaffinity(0))
    onnxruntime.InferenceSession = partial(onnxruntime.InferenceSession, sess_options=settings)
    model = moonshine_onnx.MoonshineOnnxModel(models_dir=folder, model_name="moonshine/tiny")
    tokenizer = moonshine_onnx.load_tokenizer()

    def recognise(path: str) -> str:
        samples = np.frombuffer(read_samples(path), "<i2").astype(np.float32) / 32768
        return str(tokenizer.decode_batch(model.generate(samples[None]))[0])

    return recognise


def load_pocketsphinx(folder: str | None) -> Recognise:
    """Return PocketSphinx with the weights of its wheel, or with an acoustic model of a folder."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL", **({"hmm": folder} if folder else {}))

    def recognise(path: str) -> str:
        decoder.start_utt()
        decoder.process_raw(read_samples(path), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return recognise


def load_vosk(folder: str | None, name: str = "vosk-model-small-en-us-0.15") -> Recognise:
    """Return Vosk, from a folder or downloaded."""
    import vosk

    vosk.SetLogLevel(-1)
    model = vosk.Model(folder) if folder else vosk.Model(model_name=name)

    def recognise(path: str) -> str:
        recognizer = vosk.KaldiRecognizer(model, 16000)
        recognizer.AcceptWaveform(read_samples(path))
        return str(json.loads(recognizer.FinalResult())["text"])

    return recognise


def load_faster_whisper(folder: str | None, name: str = "tiny") -> Recognise:
    """Return Whisper as faster-whisper runs it, from a folder or downloaded."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder or name, device="cpu", compute_type="int8")
    return lambda path: " ".join(s.text for s in model.transcribe(path, language="en")[0])


def load_whisper(path: str | None, name: str = "tiny.en") -> Recognise:
    """Return Whisper as its authors run it, from a .pt file or downloaded."""
    import numpy as np
    import whisper

    model = whisper.load_model(path or name, device="cpu")

    def recognise(path: str) -> str:
        samples = np.frombuffer(read_samples(path), "<i2").astype(np.float32) / 32768
        return str(model.transcribe(samples, language="en", fp16=False)["text"])

    return recognise


def _ours(title: str, *options: str) -> Engine:
    return Engine(
        title, "asr", "asr", lambda folder: load_ours(folder, *options),
        lambda: _folder_of("asr") / "models" / "default", " ".join(options) or "as it comes",
    )  # fmt: skip


def _faster_whisper(name: str) -> Engine:
    return Engine(
        f"Whisper {name}, faster-whisper int8", "faster-whisper", "faster_whisper",
        partial(load_faster_whisper, name=name),
        lambda: HUB / f"models--Systran--faster-whisper-{name}" / "snapshots",
        "language en, compute_type int8, else as it comes",
    )  # fmt: skip


ENGINES = {
    "default": _ours("asr"),
    "fast": _ours("asr --fast", "--fast"),
    "accurate": _ours("asr --accurate", "--accurate"),
    "moonshine": Engine(
        "Moonshine tiny, ONNX int8", "useful-moonshine-onnx", "moonshine_onnx", load_moonshine,
        lambda: HUB / "models--UsefulSensors--moonshine" / "snapshots", "as it comes",
    ),
    "pocketsphinx": Engine(
        "PocketSphinx 5", "pocketsphinx", "pocketsphinx", load_pocketsphinx,
        lambda: _folder_of("pocketsphinx") / "model" / "en-us", "as it comes",
    ),
    "vosk": Engine(
        "Vosk small-en-us-0.15", "vosk", "vosk", load_vosk,
        lambda: CACHE / "vosk" / "vosk-model-small-en-us-0.15", "as it comes",
    ),
    "faster-whisper-tiny": _faster_whisper("tiny"),
    "faster-whisper-base": _faster_whisper("base"),
    "whisper-tiny.en": Engine(
        "Whisper tiny.en, openai-whisper", "openai-whisper", "whisper", load_whisper,
        lambda: CACHE / "whisper" / "tiny.en.pt", "language en, else as it comes",
    ),
}  # fmt: skip
OURS = ("default", "fast", "accurate")


def describe(name: str, weights: str | None) -> dict[str, Any]:
    """Return what is installed of an engine, without loading it.

    Returns:
        `missing`: why it cannot run, empty if it can (its weights may have to be downloaded),
        and `version`, `settings`, `weights` (files, bytes and a checksum of them all) and
        `installed_bytes`: of the package and all that it needs, without the weights.
    """
    engine = ENGINES[name]
    if importlib.util.find_spec(engine.module) is None:
        return {"missing": f"the package {engine.package} is not installed"}
    place = Path(weights) if weights else engine.weights()
    if weights and not place.exists():
        return {"missing": f"{weights}: found no weights there"}
    files = sorted(_files_below(place))
    if weights and not files:
        return {"missing": f"{weights}: found no file there, wanted weights"}
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    size = sum(file.stat().st_size for file in files)
    return {
        "missing": "",
        "version": importlib.metadata.version(engine.package),
        "settings": engine.settings,
        "weights": {
            "files": len(files), "bytes": size, "sha256": digest.hexdigest() if files else "",
        },
        "installed_bytes": _installed_bytes(engine, set(files)),
    }  # fmt: skip


def _folder_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _files_below(place: Path) -> Iterable[Path]:
    """Return the files of a folder, or the file itself, without notes; links as what they name."""
    candidates = [place] if place.is_file() else place.rglob("*")
    real = {path.resolve() for path in candidates if path.is_file() and path.suffix != ".md"}
    return [path for path in real if "__pycache__" not in path.parts]


def _installed_bytes(engine: Engine, without: set[Path]) -> int:
    """Return the size of a distribution, its module and all that it requires."""
    waiting, seen = [engine.package], set()
    # An editable installation lists none of its files, hence the module's folder too.
    files = set(_files_below(_folder_of(engine.module)))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another system or Python
            continue
        files |= {Path(str(found.locate_file(file))).resolve() for file in found.files or ()}
        for requirement in found.requires or ():
            if not re.search(r";.*\bextra\b", requirement):
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower())
    return sum(path.stat().st_size for path in files - without if path.is_file())


def serve(name: str, weights: str | None) -> None:
    """Be one engine: load, say so, and answer each path with its text."""
    # Libraries that print must not come between the answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        recognise = ENGINES[name].load(weights)
    except Exception as error:  # of any library, when weights are missing or cannot be downloaded
        print(
            f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True
        )
        os._exit(1)  # what half-made objects say when they are cleared away must not come last
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps({"text": recognise(line.rstrip("\n"))}), file=out, flush=True)


def main(argv: list[str]) -> int:
    """Serve or describe an engine; return 2 after a wrong command line."""
    wanted = f"wanted serve or describe, one of {', '.join(ENGINES)}, and perhaps its weights"
    match argv:
        case ["serve" | "describe" as action, name, *rest] if name in ENGINES and len(rest) < 2:
            weights = rest[0] if rest else None
        case _:
            print(f"engines: found {' '.join(argv)!r}, {wanted}", file=sys.stderr)
            return 2
    if action == "describe":
        print(json.dumps(describe(name, weights)))
    else:
        serve(name, weights)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
