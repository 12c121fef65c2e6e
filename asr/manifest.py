"""Lists of utterances as JSON lines: one object a line, with the keys of the NeMo convention.

{"audio_filepath": "audio/0001.opus", "duration": 2.31, "text": "open the door", "speaker": "anna"}

Make one of your recordings, and look at it before training::

    python -m asr.manifest create recordings --output mine.jsonl             # x.wav beside x.txt
    python -m asr.manifest create recordings --output mine.jsonl --split 0.9
    python -m asr.manifest create cv-corpus/en --table cv-corpus/en/train.tsv --output train.jsonl
    python -m asr.manifest check train.jsonl dev.jsonl test.jsonl
    python -m asr.manifest check train.jsonl --config recipes/tiny/config.toml
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asr.arguments import EXIT_ERROR, Parser
from asr.audio import AudioError, audio_duration
from asr.config import Config, DataConfig, load_config
from asr.corpus import Recording, find_recordings, pick_groups, read_table
from asr.normalize import normalize_text

_DURATION_TOLERANCE = 0.1  # seconds by which a header may differ: encoders pad


class ManifestError(ValueError):
    """A manifest that cannot be read; the message begins with file and line."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and what is said in it.

    Attributes:
        audio_filepath: the sound file, as `open` takes it.
        duration: seconds.
        text: the transcript.
        speaker: a name of the speaker, empty if unknown.
        id: a name of the utterance; `read_manifest` takes the file's stem if there is none.
    """

    audio_filepath: str
    duration: float
    text: str
    speaker: str = ""
    id: str = ""


def read_manifest(path: str | os.PathLike[str]) -> list[Utterance]:
    """Read a manifest.

    Relative audio paths are relative to the manifest's folder. Keys that `Utterance` does not
    have are ignored, and so are empty lines. The sound files themselves are not looked at.

    Raises:
        ManifestError: the file cannot be read, or a line is not JSON or lacks a key.
    """
    return list(ManifestFile(path))


@dataclass(frozen=True)
class ManifestFile:
    """The utterances of a manifest, read as they are wanted: a line at a time, each time anew."""

    path: str | os.PathLike[str]

    def __iter__(self) -> Iterator[Utterance]:
        """Yield the utterances; errors as of `read_manifest`."""
        folder = str(Path(self.path).parent)
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    where = f"{self.path}, line {number}"
                    content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if content.strip():
                        yield to_utterance(parse_object(content, where), folder, where)
        except OSError as error:
            raise ManifestError(f"{self.path}: cannot be read ({error.strerror})") from error


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest, whole or not at all.

    Audio paths under the manifest's folder are written relative to it, others absolute, so
    that `read_manifest` finds them again from any working directory.
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.abspath(place.parent)
    lines = [json.dumps(_to_dict(utterance, folder)) + "\n" for utterance in utterances]
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{place.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        os.chmod(temporary, 0o644)  # mkstemp lets nobody else read
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise


def parse_object(line: bytes, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ManifestError: It is none; the message begins with ``where``.
    """
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: found a {type(values).__name__}, wanted a JSON object")
    return values


def to_utterance(values: dict[str, Any], folder: str, where: str) -> Utterance:
    """Return the utterance that a JSON object describes, with its path from ``folder``.

    Raises:
        ManifestError: A key is missing or wrong; the message begins with ``where``.
    """
    audio_filepath = _string(values, "audio_filepath", where)
    if not audio_filepath:
        raise ManifestError(f"{where}: audio_filepath is empty, wanted the path of a sound file")
    return Utterance(
        audio_filepath=os.path.join(folder, audio_filepath),
        duration=_seconds(values, where),
        text=_string(values, "text", where),
        speaker=_string(values, "speaker", where, default=""),
        id=_string(values, "id", where, default="") or _stem(audio_filepath),
    )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _string(values: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = values.get(key, default)
    if value is None:
        raise ManifestError(f"{where}: found no {key!r} among {sorted(values)}, wanted a string")
    if not isinstance(value, str):
        raise ManifestError(f"{where}: {key} is {value!r}, wanted a string")
    return value


def _seconds(values: dict[str, Any], where: str) -> float:
    if "duration" not in values:
        found = f"found no 'duration' among {sorted(values)}"
        raise ManifestError(f"{where}: {found}, wanted a number of seconds")
    value = values["duration"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ManifestError(f"{where}: duration is {value!r}, wanted a positive number of seconds")
    return float(value)


def _to_dict(utterance: Utterance, folder: str) -> dict[str, str | float]:
    audio_filepath = os.path.abspath(utterance.audio_filepath)
    if audio_filepath.startswith(os.path.join(folder, "")):
        audio_filepath = os.path.relpath(audio_filepath, folder)
    values: dict[str, str | float] = {
        "audio_filepath": audio_filepath,
        "duration": utterance.duration,
        "text": utterance.text,
    }
    if utterance.speaker:
        values["speaker"] = utterance.speaker
    if utterance.id:
        values["id"] = utterance.id
    return values


def prepare_text(utterance: Utterance, data: DataConfig) -> Utterance:
    """Return the utterance with its text as training sees it."""
    if data.normalize == "english":
        return replace(utterance, text=normalize_text(utterance.text))
    return utterance


def reason_to_skip(utterance: Utterance, data: DataConfig) -> str:
    """Return why training leaves an utterance out, empty if it does not.

    Args:
        utterance: With prepared text.
        data: Alphabet and limits of duration.
    """
    if not utterance.text:
        return "empty text"
    if not set(utterance.text) <= set(data.alphabet):
        return "characters outside the alphabet"
    if utterance.duration < data.min_seconds:
        return f"shorter than {data.min_seconds:g} s"
    if utterance.duration > data.max_seconds:
        return f"longer than {data.max_seconds:g} s"
    return ""


def check_utterances(
    utterances: Iterable[Utterance], config: Config, max_files: int = 0
) -> dict[str, list[str]]:
    """Look for what would harm training.

    Args:
        utterances: Of one manifest; they may be asked for several times.
        config: Alphabet, limits, and the network whose CTC must fit a text into its frames.
        max_files: Look into at most so many sound files, evenly spread; 0 looks into all.

    Returns:
        For each kind of problem a line for each utterance that has it.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    model = config.model
    subsampling = 2 ** (len(model.conv_channels) + len(model.pyramid_layers))
    labels = model.ctc_labels_per_frame / (config.features.shift_seconds * subsampling)
    distance = math.ceil(sum(1 for _ in utterances) / max_files) if max_files else 1
    for index, utterance in enumerate(utterances):
        name, seconds = utterance.id, utterance.duration
        prepared = prepare_text(utterance, config.data)
        if reason := reason_to_skip(prepared, config.data):
            foreign = "".join(sorted(set(prepared.text) - set(config.data.alphabet)))
            problems[f"skipped: {reason}"].append(f"{name} {foreign}".rstrip())
        if index % distance == 0:
            try:
                seconds = audio_duration(utterance.audio_filepath)
            except AudioError as error:
                problems["skipped: audio that cannot be read"].append(str(error))
        if abs(seconds - utterance.duration) > _DURATION_TOLERANCE:
            line = f"{name}: manifest says {utterance.duration:.2f} s, the file {seconds:.2f} s"
            problems["wrong duration"].append(line)
        count = len(prepared.text)
        if count + sum(a == b for a, b in pairwise(prepared.text)) > seconds * labels:
            line = f"{name}: {count} characters in {seconds:.2f} s"
            problems["text too long for its audio: CTC leaves it out"].append(line)
    for first, second in _find_twice(utterances, "id"):
        line = f"{second.id}: {first.audio_filepath} and {second.audio_filepath}"
        problems["the same id twice"].append(line)
    for first, second in _find_twice(utterances, "audio_filepath"):
        line = f"{second.audio_filepath}: {first.id} and {second.id}"
        problems["the same recording twice"].append(line)
    return dict(problems)


def _find_twice(
    utterances: Iterable[Utterance], attribute: str
) -> Iterator[tuple[Utterance, Utterance]]:
    """Yield each utterance that shares an attribute with one before, after the last such.

    Of a million utterances, only hashes are kept: 8 bytes each.
    """
    hashes = np.sort(_hashes(utterances, attribute))
    shared = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    before: dict[str, Utterance] = {}
    for utterance in utterances if shared else ():
        value = getattr(utterance, attribute)
        if hash(value) in shared:
            if value in before:
                yield before[value], utterance
            before[value] = utterance


def _hashes(utterances: Iterable[Utterance], attribute: str) -> npt.NDArray[np.int64]:
    return np.fromiter((hash(getattr(u, attribute)) for u in utterances), np.int64)


def check_overlap(manifests: Mapping[str, Iterable[Utterance]]) -> dict[str, list[str]]:
    """Look for what several manifests share, as train and test never should.

    Args:
        manifests: The utterances of each, at least one; they may be asked for several times.

    Returns:
        For each kind of problem a line for each thing shared.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    for attribute, kind in (("speaker", "speaker"), ("audio_filepath", "recording")):
        unique = [np.unique(_hashes(every, attribute)) for every in manifests.values()]
        hashes, counts = np.unique(np.concatenate(unique), return_counts=True)
        shared = set(hashes[counts > 1].tolist()) - {hash("")}
        places: dict[str, set[str]] = defaultdict(set)
        for name, utterances in manifests.items() if shared else ():
            for utterance in utterances:
                if hash(value := getattr(utterance, attribute)) in shared:
                    places[value].add(name)
        for value, names in places.items():
            if len(names) > 1:
                line = f"{value}: {', '.join(sorted(names))}"
                problems[f"the same {kind} in several manifests"].append(line)
    return dict(problems)


def create_utterances(
    recordings: Iterable[Recording | str], folder: str | os.PathLike[str]
) -> tuple[list[Utterance], list[str]]:
    """Look up how long recordings are.

    Args:
        recordings: And as strings what is wrong with others.
        folder: Where they lie; their paths from there, without suffix, become the ids.

    Returns:
        The utterances, and a line for each recording that is left out.
    """
    utterances: list[Utterance] = []
    problems: list[str] = []
    for recording in recordings:
        if isinstance(recording, str):
            problems.append(recording)
            continue
        try:
            seconds = round(audio_duration(recording.path), 3)
        except AudioError as error:
            problems.append(str(error))
            continue
        name = os.path.splitext(os.path.relpath(recording.path, folder))[0]
        utterances.append(
            Utterance(recording.path, seconds, recording.text, recording.speaker, name)
        )
    return utterances, problems


def split_utterances(
    utterances: Sequence[Utterance], fraction: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Part utterances in two, always in the same way and with no speaker in both.

    Args:
        utterances: At least two; they are parted one by one if fewer than two speakers are known.
        fraction: Of the time that goes to the first part.
    """
    by_speaker = len({u.speaker for u in utterances}) > 1
    groups: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        groups[utterance.speaker if by_speaker else utterance.audio_filepath].append(utterance)
    seconds = {name: sum(u.duration for u in group) for name, group in groups.items()}
    second = pick_groups(seconds, 1 - fraction)
    parts: tuple[list[Utterance], list[Utterance]] = ([], [])
    for name, group in groups.items():
        parts[name in second].extend(group)
    return parts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program: 0 if all is well, 1 if a check found something, 2 after an error."""
    options = make_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = _check if options.command == "check" else _create
    try:
        return run(options)
    except (ValueError, OSError) as error:
        print(f"asr.manifest: {error}", file=sys.stderr)
        return EXIT_ERROR


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(prog="python -m asr.manifest", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="look for what would harm training")
    check.add_argument("manifests", nargs="+", metavar="MANIFEST")
    check.add_argument(
        "--config", metavar="FILE", help="TOML file of the training (default: the defaults)"
    )
    create = commands.add_parser("create", help="make a manifest of recordings")
    create.add_argument("folder", type=Path, metavar="FOLDER", help="where sound files lie")
    create.add_argument("--output", type=Path, required=True, metavar="MANIFEST")
    create.add_argument(
        "--table", type=Path, metavar="FILE",
        help="CSV or TSV with columns of files and texts (default: x.txt beside x.wav)",
    )  # fmt: skip
    create.add_argument(
        "--split", type=float, metavar="PART",
        help="make two manifests, .train and .dev, of which the first has this part (0.9)",
    )  # fmt: skip
    for command in (check, create):
        command.add_argument(
            "--examples", type=int, default=5, metavar="N", help="shown of each kind"
        )
    return parser


def _check(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    manifests = {path: ManifestFile(path) for path in options.manifests}
    found = 0
    for path, utterances in manifests.items():
        _print_summary(path, utterances)
        found += print_problems(check_utterances(utterances, config), options.examples)
    found += print_problems(check_overlap(manifests), options.examples)
    print(f"{found} problems found" if found else "nothing found")
    return 1 if found else 0


def _create(options: argparse.Namespace) -> int:
    if options.split is not None and not 0 < options.split < 1:
        raise ValueError(f"--split: found {options.split}, wanted a number between 0 and 1")
    folder, table = options.folder, options.table
    recordings = read_table(folder, table) if table else find_recordings(folder)
    utterances, problems = create_utterances(recordings, folder)
    print_problems({"left out": problems} if problems else {}, options.examples)
    least = 2 if options.split else 1
    if len(utterances) < least:
        found = f"{len(utterances)} usable recordings with transcripts"
        raise ValueError(f"{table or folder}: found {found}, wanted at least {least}")
    parts = {options.output: utterances}
    if options.split:
        names = [options.output.with_suffix(f".{part}.jsonl") for part in ("train", "dev")]
        parts = dict(zip(names, split_utterances(utterances, options.split), strict=True))
    for path, part in parts.items():
        write_manifest(path, part)
        _print_summary(path, part)
    print("next: python -m asr.manifest check " + " ".join(map(str, parts)))
    return 0


def _print_summary(path: str | Path, utterances: Iterable[Utterance]) -> None:
    count, seconds, speakers = 0, 0.0, {""}
    for count, utterance in enumerate(utterances, start=1):  # noqa: B007  it is printed
        seconds += utterance.duration
        speakers.add(utterance.speaker)
    print(f"{path}: {count} utterances, {seconds / 3600:.2f} h, {len(speakers) - 1} speakers")


def print_problems(problems: Mapping[str, Sequence[str]], examples: int) -> int:
    """Print each kind of problem with some examples; return how many problems there are."""
    for kind, lines in problems.items():
        print(f"  {kind}: {len(lines)}")
        for line in lines[:examples]:
            print(f"    {line}")
        if len(lines) > examples:
            print(f"    … and {len(lines) - examples} more")
    return sum(len(lines) for lines in problems.values())


if __name__ == "__main__":
    sys.exit(main())
