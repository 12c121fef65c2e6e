"""Pack a corpus into tar shards, from which training reads in sequence, at any size.

    python -m asr.shards pack train.jsonl --output shards
    python -m asr.shards pack train.jsonl --output shards --format copy --shard-mb 200
    python -m asr.train config.toml train_manifests='shards/train-{000000..000041}.tar'

A shard holds two members an utterance, ``KEY.flac`` (16 kHz, or with ``copy`` the original file)
and ``KEY.json``; ``shards.json`` beside the shards lists them. Utterances are shuffled first, for
training only mixes those that are near each other. Packing that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asr.archive import INDEX, SOUNDS
from asr.arguments import EXIT_ERROR, Parser
from asr.audio import SAMPLE_RATE, AudioError, audio_duration, load_audio
from asr.index import ManifestIndex
from asr.manifest import Utterance

_MEGABYTE = 1e6
_MOST_NAMED = 20  # unreadable files that are listed for each shard


@dataclass(frozen=True)
class Shard:
    """What `shards.json` tells of a shard.

    Attributes:
        name: Of the file.
        utterances: How many it holds.
        seconds: Of their audio.
        bytes: Of the file.
        end: Place in the shuffled corpus behind its last utterance.
        left_out: Utterances that could not be read.
    """

    name: str
    utterances: int
    seconds: float
    bytes: int
    end: int
    left_out: int


class Packer:
    """Packs one corpus into one folder.

    Args:
        manifests: Paths of JSON-lines manifests.
        output: Folder of the shards, made if need be.
        limit: Utterances a shard, 0 for no limit.
        megabytes: Size from which a shard is full, 0 for no limit.
        copy: Keep the original files; else FLAC at 16 kHz.
        seed: Of the order.

    Raises:
        ValueError: A manifest cannot be read, or the folder holds something else.
    """

    def __init__(
        self, manifests: Sequence[str], output: Path, limit: int, megabytes: float, copy: bool,
        seed: int,
    ) -> None:  # fmt: skip
        self.utterances = ManifestIndex(manifests, None)
        if not len(self.utterances):
            raise ValueError(f"{', '.join(manifests)}: found no utterance")
        self.output = output
        self.limit = limit
        self.megabytes = megabytes
        self.copy = copy
        self.order = np.random.default_rng(seed).permutation(len(self.utterances))
        self.stem = Path(manifests[0]).stem
        mark = hashlib.sha256(json.dumps([limit, megabytes, copy, seed]).encode())
        for manifest in manifests:
            with open(manifest, "rb") as file:
                mark.update(hashlib.file_digest(file, "sha256").digest())
        self.corpus = mark.hexdigest()[:16]
        self.shards = self._find_packed()

    def _find_packed(self) -> list[Shard]:
        """Return the shards that an earlier run of the same command has finished.

        Raises:
            ValueError: The folder holds shards of something else.
        """
        listed: list[Shard] = []
        index = self.output / INDEX
        if index.exists():
            try:
                values = json.loads(index.read_text(encoding="utf-8"))
                same = values["corpus"] == self.corpus
                listed = [Shard(**shard) for shard in values["shards"]]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{index}: found no list of shards ({error})") from error
            if not same:
                raise ValueError(
                    f"{self.output}: holds shards of another corpus or with other settings, "
                    "wanted an empty folder or the command that began them"
                )
        sizes = {shard.name: shard.bytes for shard in listed}
        for path in sorted(self.output.glob("*.tar")):
            if sizes.get(path.name) != path.stat().st_size:
                raise ValueError(f"{path}: was not packed by this command, wanted another --output")
        packed = []
        for shard in listed:  # a shard is listed before it gets its name
            if not (self.output / shard.name).exists():
                break
            packed.append(shard)
        for shard in listed[len(packed) :]:  # behind a gap: they are packed anew
            (self.output / shard.name).unlink(missing_ok=True)
        return packed

    def run(self) -> Iterator[tuple[Shard, list[str]]]:
        """Pack what is missing; yield each shard with what was wrong with unreadable files.

        Raises:
            OSError: The folder cannot be written.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        while (begin := self.shards[-1].end if self.shards else 0) < len(self.order):
            name = f"{self.stem}-{len(self.shards):06d}.tar"
            temporary = self.output / f".{name}.part"
            try:
                shard, problems = self._write(temporary, name, begin)
                self.shards.append(shard)
                self._write_index()
                os.replace(temporary, self.output / name)
            finally:
                temporary.unlink(missing_ok=True)
            yield shard, problems

    def _write(self, path: Path, name: str, begin: int) -> tuple[Shard, list[str]]:
        seconds, count, end = 0.0, 0, begin
        problems: list[str] = []
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                while end < len(self.order) and not self._is_full(count, file.tell()):
                    utterance = self.utterances[int(self.order[end])]
                    try:
                        duration, members = self._members(utterance)
                    except (AudioError, OSError) as error:
                        problems.append(str(error))
                    else:
                        for suffix, content in members.items():
                            # Without owner and time, the same corpus gives the same bytes.
                            member = tarfile.TarInfo(f"{_key(end, utterance)}.{suffix}")
                            member.size = len(content)
                            tar.addfile(member, io.BytesIO(content))
                        seconds, count = seconds + duration, count + 1
                    end += 1
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        return Shard(name, count, round(seconds, 3), size, end, len(problems)), problems

    def _is_full(self, count: int, size: int) -> bool:
        by_count = self.limit > 0 and count >= self.limit
        return by_count or (self.megabytes > 0 and size >= self.megabytes * _MEGABYTE)

    def _members(self, utterance: Utterance) -> tuple[float, dict[str, bytes]]:
        """Return the seconds of an utterance and the bytes of its members by suffix.

        Raises:
            AudioError: The file cannot be read.
        """
        path = utterance.audio_filepath
        if self.copy:
            duration = audio_duration(path)
            suffix, sound = Path(path).suffix.lower().lstrip("."), Path(path).read_bytes()
            if suffix not in SOUNDS:
                wanted = ", ".join(f".{s}" for s in SOUNDS)
                raise AudioError(f"{path}: its name ends in {suffix!r}, wanted {wanted}")
        else:
            import soundfile

            waveform = load_audio(path)
            duration, suffix, buffer = len(waveform) / SAMPLE_RATE, "flac", io.BytesIO()
            soundfile.write(buffer, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            sound = buffer.getvalue()
        values: dict[str, Any] = {
            "id": utterance.id, "duration": round(duration, 4), "text": utterance.text,
        }  # fmt: skip
        if utterance.speaker:
            values["speaker"] = utterance.speaker
        return duration, {suffix: sound, "json": json.dumps(values, ensure_ascii=False).encode()}

    def _write_index(self) -> None:
        index = self.output / INDEX
        values = {
            "corpus": self.corpus,
            "utterances": sum(shard.utterances for shard in self.shards),
            "hours": round(sum(shard.seconds for shard in self.shards) / 3600, 4),
            "shards": [asdict(shard) for shard in self.shards],
        }
        temporary = index.with_suffix(".part")
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, index)


def _key(place: int, utterance: Utterance) -> str:
    """Return a name of members: unique, and without the dots at which a key ends."""
    return f"{place:08d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', utterance.id)[:60]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program: 0 if shards were packed, 2 after an error."""
    options = make_parser().parse_args(argv)
    try:
        return _pack(options)
    except (ValueError, OSError) as error:
        print(f"asr.shards: {error}", file=sys.stderr)
        return EXIT_ERROR


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(prog="python -m asr.shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="write tar shards", description=__doc__)
    pack.add_argument("manifests", nargs="+", metavar="MANIFEST")
    pack.add_argument("--output", required=True, type=Path, metavar="DIR")
    size = pack.add_mutually_exclusive_group()
    size.add_argument("--utterances-per-shard", type=int, default=1000, metavar="N")
    size.add_argument("--shard-mb", type=float, default=0.0, metavar="MB", help="instead")
    pack.add_argument("--format", choices=("flac", "copy"), default="flac")
    pack.add_argument("--shuffle-seed", type=int, default=1, metavar="N")
    return parser


def _pack(options: argparse.Namespace) -> int:
    for name in ("utterances_per_shard", "shard_mb", "shuffle_seed"):
        if getattr(options, name) < (name == "utterances_per_shard"):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}: found {getattr(options, name)}, wanted a positive number")
    limit = 0 if options.shard_mb else options.utterances_per_shard
    packer = Packer(
        options.manifests, options.output, limit, options.shard_mb, options.format == "copy",
        options.shuffle_seed,
    )  # fmt: skip
    if packer.shards:
        print(f"kept {len(packer.shards)} shards that were packed before")
    for shard, problems in packer.run():
        print(f"{shard.name}: {_describe([shard])}", flush=True)
        for problem in problems[:_MOST_NAMED]:
            print(f"left out: {problem}", file=sys.stderr)
        if len(problems) > _MOST_NAMED:
            print(f"left out: … and {len(problems) - _MOST_NAMED} more", file=sys.stderr)
    if not any(shard.utterances for shard in packer.shards):
        raise ValueError(f"{', '.join(options.manifests)}: found no readable audio")
    count = len(packer.shards)
    print(f"{options.output}: {count} shards, {_describe(packer.shards)}")
    pattern = f"{packer.stem}-{{000000..{count - 1:06d}}}.tar"
    print(f"train on them with data.train_manifests='{options.output / pattern}'")
    return 0


def _describe(shards: Sequence[Shard]) -> str:
    utterances, left_out = sum(s.utterances for s in shards), sum(s.left_out for s in shards)
    hours, size = sum(s.seconds for s in shards) / 3600, sum(s.bytes for s in shards) / _MEGABYTE
    more = f", {left_out} left out" if left_out else ""
    return f"{utterances} utterances, {hours:.2f} h, {size:.1f} MB{more}"


if __name__ == "__main__":
    sys.exit(main())
