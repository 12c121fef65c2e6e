"""Lists of utterances as JSON lines: one object a line, with the keys of the NeMo convention.

{"audio_filepath": "audio/0001.opus", "duration": 2.31, "text": "open the door", "speaker": "anna"}
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    place = Path(path)
    try:
        content = place.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    utterances = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            utterances.append(_parse_line(line, place.parent, f"{path}, line {number}"))
    return utterances


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


def _parse_line(line: bytes, folder: Path, where: str) -> Utterance:
    try:
        values = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{where}: found a {type(values).__name__}, wanted a JSON object")
    audio_filepath = _string(values, "audio_filepath", where)
    if not audio_filepath:
        raise ManifestError(f"{where}: audio_filepath is empty, wanted the path of a sound file")
    return Utterance(
        audio_filepath=os.path.join(folder, audio_filepath),
        duration=_seconds(values, where),
        text=_string(values, "text", where),
        speaker=_string(values, "speaker", where, default=""),
        id=_string(values, "id", where, default="") or Path(audio_filepath).stem,
    )


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
