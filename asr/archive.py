"""Tar shards on disk and from streams: what their names mean, and their samples one by one.

Read by WebDataset's lowest level: openers for files, URLs and pipes, and the grouping of tar
members into samples. Its pipelines are not used, as training needs an order that is known.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

INDEX = "shards.json"  # beside the shards that `asr.shards` packed
SOUNDS = ("flac", "wav", "mp3", "ogg", "opus")  # members that hold audio
_STREAM = re.compile(r"pipe:|[a-z0-9+.-]+://")


@dataclass(frozen=True)
class Sample:
    """Tar members that share a key.

    Attributes:
        key: Their name up to its first dot.
        members: Bytes by the rest of the name, in lower case.
    """

    key: str
    members: dict[str, bytes]


def is_shard(name: str) -> bool:
    """Tell tar shards, by path, URL or pipe, from manifests."""
    return name.endswith(".tar") or not is_local(name)


def is_local(shard: str) -> bool:
    """Tell files from what comes through a pipe or a network."""
    return _STREAM.match(shard) is None


def expand_shards(names: Iterable[str]) -> list[str]:
    """Return the shards that brace patterns and, for files, wildcards mean.

    Raises:
        ValueError: A pattern has unbalanced braces, or WebDataset is not installed.
    """
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ValueError(
            "shards: WebDataset is not installed, wanted by training on them; "
            "install the extra 'train'"
        ) from error
    shards: list[str] = []
    for name in names:
        try:
            expanded = list(braceexpand(name))
        except ValueError as error:
            raise ValueError(f"{name}: found unbalanced braces, wanted {{000..041}}") from error
        for place in expanded:
            found = sorted(glob.glob(place)) if is_local(place) else []
            shards += found or [place]
    return shards


class _Watched:
    """A stream that remembers the end of what was read of it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.end = b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size)
        self.end = (self.end + data[-512:])[-512:]
        return data


def read_samples(shard: str) -> Iterator[Sample | str]:
    """Yield the samples of a shard, and as a string what is wrong with it, if anything.

    Reading goes from front to back. What stands before a damaged place is yielded.
    """
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    problems: list[str] = []

    def note(error: Exception) -> bool:
        # WebDataset adds the stream's description behind an " @ ".
        reason = str(error.args[0] if error.args else error).split(" @ ")[0]
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        problems.append(f"{shard}: truncated or damaged ({reason or type(error).__name__})")
        return True

    try:
        stream = gopen(shard, "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        yield f"{shard}: cannot be read ({reason})"
        return
    finished = False
    try:
        watched = _Watched(stream)
        files = tar_file_expander([{"url": shard, "stream": watched}], handler=note)
        for sample in group_by_keys(files, handler=note):
            members = {name: data for name, data in sample.items() if not name.startswith("__")}
            if not problems:  # the last sample before damage may lack a member
                yield Sample(sample["__key__"], members)
        # Without its closing zeros a tar file was cut between members, which tarfile forgives.
        if not problems and shard.endswith(".tar") and watched.end.strip(b"\0"):
            problems.append(f"{shard}: truncated (ends without the end mark of a tar file)")
        finished = True
    finally:
        _close(stream, note if finished and not problems else None)
    yield from problems[:1]


def _close(stream: Any, note: Any) -> None:
    """Close a stream; if it was read to its end, hear how the command of a pipe ended."""
    try:
        if note:
            while stream.read(1 << 16):  # the padding, lest the command dies of a broken pipe
                pass
        stream.close()
    except OSError as error:
        if note:
            note(error)


def list_missing(shards: Iterable[str]) -> list[str]:
    """Return those of the shards that are files and not there."""
    return [shard for shard in shards if is_local(shard) and not os.path.isfile(shard)]
