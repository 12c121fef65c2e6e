"""Run a recogniser in a process of its own and measure it from outside: `measure_engine`.

`engines.py` says how such a program answers. Everything is measured by the one that asks, so that
it is the same for all: time from path to text, processor time of all the program's threads, and
the most memory that it held. How much of the machine others used meanwhile is kept beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from asr.audio import SAMPLE_RATE, load_audio
from asr.manifest import Utterance, read_manifest

PROJECT = Path(__file__).parents[1]
PROGRAM = Path(__file__).with_name("engines.py")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
START_LIMIT = 600.0  # seconds until an engine must be ready, a download of its weights included
ANSWER_LIMIT = 600.0  # seconds for one file
_TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel's clocks, a second


class EngineError(ValueError):
    """An engine that is missing, does not start, or stops; the message is one line."""


@dataclass(frozen=True)
class Run:
    """What one process took.

    Attributes:
        startup: Seconds from the start of the process until it was ready.
        seconds: Of all files, one by one.
        cpu_seconds: Processor time of all threads in that while; None on systems without /proc.
        megabytes: Most memory that it held, in 2**20 bytes; None likewise.
        others: How many cores other processes used meanwhile, on average; None likewise.
        texts: One for each file.
    """

    startup: float
    seconds: float
    cpu_seconds: float | None
    megabytes: float | None
    others: float | None
    texts: tuple[str, ...]

    def to_json(self) -> dict[str, float | None]:
        """Return the figures as plain data, without the texts."""
        names = ("startup", "seconds", "cpu_seconds", "megabytes", "others")
        found = {name: getattr(self, name) for name in names}
        return {name: None if v is None else round(v, 3) for name, v in found.items()}


def pick_utterances(manifest: Path, count: int) -> list[Utterance]:
    """Return so many utterances of a manifest, evenly picked, or all if it has fewer.

    Raises:
        ValueError: The manifest cannot be read or holds none.
    """
    utterances = read_manifest(manifest)
    if not utterances:
        raise EngineError(f"{manifest}: found no utterances, wanted at least 1")
    count = min(count, len(utterances))
    return [utterances[index * len(utterances) // count] for index in range(count)]


def write_wavs(utterances: Sequence[Utterance], folder: Path) -> tuple[list[str], float]:
    """Write utterances as WAV files of 16-bit samples at 16 kHz; return paths and seconds."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    files, seconds = [], 0.0
    for index, utterance in enumerate(utterances):
        waveform = load_audio(utterance.audio_filepath)
        files.append(str(folder / f"{index:04d}.wav"))
        soundfile.write(files[-1], waveform, SAMPLE_RATE, "PCM_16")
        seconds += len(waveform) / SAMPLE_RATE
    return files, seconds


def describe_engine(python: str, engine: str, weights: str | None) -> dict[str, Any]:
    """Return what `engines.py describe` says in an environment.

    Raises:
        EngineError: There is no such Python, or it failed.
    """
    command = [python, str(PROGRAM), "describe", engine, *([weights] if weights else [])]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment(1)
        )
    except OSError as error:
        raise EngineError(f"{python}: cannot be run ({error.strerror})") from error
    if done.returncode:
        raise EngineError(f"{engine}: {_last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def serving(python: str, engine: str, weights: str | None) -> list[str]:
    """Return the command of an engine of `engines.py`."""
    return [python, str(PROGRAM), "serve", engine, *([weights] if weights else [])]


def measure_engine(
    name: str,
    command: Sequence[str],
    files: Sequence[str],
    cores: int,
    start_limit: float = START_LIMIT,
) -> Run:
    """Let a program recognise files one by one on some cores.

    Args:
        name: For messages.
        command: The program, which speaks as `engines.py` says.
        files: WAV files.
        cores: How many it may use; libraries are also told to use as many threads.
        start_limit: Seconds until it must be ready.

    Raises:
        EngineError: It does not start, stops early, or answers otherwise.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        started = time.perf_counter()
        with _process(name, command, cores, errors) as process:
            with _limit(process, start_limit, f"{name}: not ready"):
                _answer(name, process, errors, "ready")
            ready = time.perf_counter()
            cpu, machine = _cpu_seconds(process.pid), _machine_seconds()
            texts = []
            for file in files:
                with suppress(OSError):  # it stopped: the answer that is missing says so
                    print(file, file=process.stdin, flush=True)
                with _limit(process, ANSWER_LIMIT, f"{name}: no text of {file}"):
                    texts.append(str(_answer(name, process, errors, "text")))
            seconds = time.perf_counter() - ready
            used = _difference(_cpu_seconds(process.pid), cpu)
            all_used = _difference(_machine_seconds(), machine)
            others = _difference(all_used, used)
            return Run(
                startup=ready - started,
                seconds=seconds,
                cpu_seconds=used,
                megabytes=_peak_megabytes(process.pid),
                others=None if others is None else max(0.0, others / seconds),
                texts=tuple(texts),
            )


@contextmanager
def _process(
    name: str, command: Sequence[str], cores: int, errors: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    """Start a program on some cores; it does not outlive the block."""

    def limit() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            encoding="utf-8", env=_environment(cores), preexec_fn=limit,
        )  # fmt: skip
    except OSError as error:
        raise EngineError(f"{name}: {command[0]} cannot be run ({error.strerror})") from error
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(OSError):  # what it never read
                stream.close()


@contextmanager
def _limit(process: subprocess.Popen[str], seconds: float, message: str) -> Iterator[None]:
    """End a program that needs too long for what is done in the block."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    except EngineError:
        if late.is_set():
            raise EngineError(f"{message} after {seconds:g} s") from None
        raise
    finally:
        timer.cancel()


def _environment(cores: int) -> dict[str, str]:
    """Return ours, with the number of threads, and with this project before an installed one."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(THREAD_VARIABLES, str(cores))
    return {**os.environ, **threads, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _answer(name: str, process: subprocess.Popen[str], errors: IO[str], key: str) -> Any:
    """Read a line of a program and return what it says of a key."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        errors.seek(0)
        raise EngineError(f"{name}: stopped with {process.returncode}: {_last_line(errors.read())}")
    try:
        return json.loads(line)[key]
    except (ValueError, KeyError, TypeError):
        found = line.strip()[:60]
        raise EngineError(f"{name}: answered {found!r}, wanted JSON with {key!r}") from None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _cpu_seconds(pid: int) -> float | None:
    """Return the processor time of a process, its threads and its finished children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / _TICKS


def _machine_seconds() -> float | None:
    """Return the processor time of all cores that was not idle."""
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS


def _peak_megabytes(pid: int) -> float | None:
    # Not ru_maxrss: on Linux it starts with what the parent held when it made the process.
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return sizes[0] / 1024 if sizes else None


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
