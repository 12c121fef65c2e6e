"""Fetch the archives of LibriSpeech and of mini LibriSpeech, checked and resumable.

Used by `prepare.py --download`. Addresses and SHA-256 sums of LibriSpeech (openslr 12) are
torchaudio's own table; its downloader begins again from nothing after an interruption, which
hurts with archives of 30 GB, so the transfer here continues a `.partial` file instead.
Mini LibriSpeech (openslr 31) is unknown to torchaudio; its MD5 sums are the publisher's.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

OPENSLR = "https://www.openslr.org"
ARCHIVE_FOLDER = "LibriSpeech"
BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60

# Utterances of the complete subsets: a missing folder shows up in no other way.
UTTERANCES = {
    "train-clean-5": 1519,
    "dev-clean-2": 1089,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}


class DownloadError(ValueError):
    """An archive that could not be fetched whole, or is not the one it should be."""


@dataclass(frozen=True)
class Archive:
    """Where an archive lies and what its bytes must hash to."""

    url: str
    algorithm: str
    checksum: str


MINI_LIBRISPEECH = {
    "train-clean-5": Archive(
        f"{OPENSLR}/resources/31/train-clean-5.tar.gz",
        "md5",
        "5df7d4e78065366204ca6845bb08f490",
    ),
    "dev-clean-2": Archive(
        f"{OPENSLR}/resources/31/dev-clean-2.tar.gz",
        "md5",
        "6d7ab67ac6a1d2c993d050e16d61080d",
    ),
}


def known_archives(mirror: str = OPENSLR) -> dict[str, Archive]:
    """Return every subset that can be downloaded.

    Args:
        mirror: Server that holds `resources/12` and `resources/31` as openslr.org does; checksums
            are the publisher's all the same.
    """
    # torchaudio takes a second to import and is needed for downloads only.
    from torchaudio.datasets import librispeech

    server = mirror.rstrip("/")
    archives = {
        subset: replace(archive, url=archive.url.replace(OPENSLR, server, 1))
        for subset, archive in MINI_LIBRISPEECH.items()
    }
    for url, checksum in librispeech._CHECKSUMS.items():
        name = url.rsplit("/", 1)[-1]
        archive = Archive(f"{server}/resources/12/{name}", "sha256", checksum)
        archives[name.removesuffix(".tar.gz")] = archive
    return archives


def download_subset(
    corpus: Path,
    subset: str,
    archives: dict[str, Archive] | None = None,
    mirror: str = OPENSLR,
) -> Path:
    """Make sure that a subset lies complete under `corpus/LibriSpeech`.

    Args:
        corpus: Folder that receives the archive and the extracted `LibriSpeech/` tree.
        subset: For example "train-clean-5".
        archives: The subsets that can be had; all known ones if left out.
        mirror: Where to look for the known ones.

    Returns:
        The folder of the subset.

    Raises:
        DownloadError: Unknown subset, failed transfer, wrong checksum or broken archive.
    """
    folder = corpus / ARCHIVE_FOLDER / subset
    if folder.is_dir():  # Ours is moved there in one step, and a user's is not ours to replace.
        return folder
    archives = known_archives(mirror) if archives is None else archives
    if subset not in archives:
        raise DownloadError(
            f"cannot download subset {subset!r}: known are {', '.join(sorted(archives))}"
        )
    archive = archives[subset]
    path = corpus / f"{subset}.tar.gz"
    if not path.exists():
        fetch(archive, path)
    _extract(path, corpus, subset)
    path.unlink()  # Its files lie beside it now; 60 GB twice would be too much.
    return folder


def fetch(archive: Archive, path: Path) -> None:
    """Download one archive; the file takes its name only once its checksum is right.

    An interrupted transfer leaves `NAME.partial`, which the next call continues.

    Raises:
        DownloadError: The transfer ended early or the checksum is wrong.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        _transfer(archive.url, partial)
    except OSError as error:  # urllib's errors are OSErrors
        kept = partial.stat().st_size if partial.exists() else 0
        raise DownloadError(
            f"{archive.url}: download stopped after {kept} bytes ({error}); "
            "the same command continues it"
        ) from error
    found = checksum_of(partial, archive.algorithm)
    if found != archive.checksum:
        partial.unlink()  # Continuing a wrong file can never make it right.
        raise DownloadError(
            f"{archive.url}: {archive.algorithm} is {found}, wanted {archive.checksum}; "
            "the file was deleted"
        )
    partial.replace(path)


def checksum_of(path: Path, algorithm: str) -> str:
    """Hash a file in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _transfer(url: str, partial: Path) -> None:
    """Append what is missing to `partial`."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "asr-recipe"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # Nothing lies beyond what we have: it is complete.
            return
        raise
    with response:
        # A server (or file://) that ignores the range sends the whole again, with status 200.
        continues = have > 0 and getattr(response, "status", None) == 206
        length = response.headers.get("Content-Length")
        wanted = None if length is None else int(length) + (have if continues else 0)
        with partial.open("ab" if continues else "wb") as file:
            shutil.copyfileobj(response, file, BLOCK_BYTES)
    size = partial.stat().st_size
    if wanted is not None and size < wanted:
        raise OSError(f"connection closed, {wanted} bytes wanted")


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuse what could be written outside of the folder; LibriSpeech has nothing of the kind."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
        raise tarfile.TarError(f"unwanted member {member.name!r}")


def _extract(path: Path, corpus: Path, subset: str) -> None:
    """Unpack into a temporary folder and move the subset into its place in one step."""
    staging = corpus / f".extracting-{subset}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                _check_member(path, member)
                # Python 3.11.2, Debian 12's, has no filters yet; newer ones want to be told.
                if hasattr(tarfile, "data_filter"):
                    archive.extract(member, staging, filter="data")
                else:
                    archive.extract(member, staging)
    except (tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise DownloadError(
            f"{path}: cannot be unpacked ({error}); delete it and run again"
        ) from error
    source = staging / ARCHIVE_FOLDER / subset
    if not source.is_dir():
        shutil.rmtree(staging, ignore_errors=True)
        raise DownloadError(f"{path}: holds no {ARCHIVE_FOLDER}/{subset}")
    target = corpus / ARCHIVE_FOLDER / subset
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    for extra in (staging / ARCHIVE_FOLDER).iterdir():  # README, LICENSE, SPEAKERS.TXT
        if extra.is_file():
            with contextlib.suppress(FileExistsError):
                extra.replace(corpus / ARCHIVE_FOLDER / extra.name)
    shutil.rmtree(staging)
