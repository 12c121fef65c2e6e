"""`recipes/librispeech/prepare.py` and its downloads, on small corpora in the same layouts."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.manifest import read_manifest

RECIPE = Path(__file__).parents[2] / "recipes" / "librispeech"
sys.path.insert(0, str(RECIPE))

import download  # noqa: E402
import prepare  # noqa: E402


def write_audio(path: Path, seconds: float = 2.0, sample_rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    samples = 0.1 * np.sin(2 * np.pi * 220 * time)
    if path.suffix == ".opus":
        soundfile.write(path, samples, sample_rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, samples, sample_rate)


def write_transcript(path: Path, lines: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{item} {text}\n" for item, text in lines.items()), encoding="utf-8")


def make_tree(corpus: Path, subset: str, extension: str = "flac") -> Path:
    """Two speakers and three utterances in LibriSpeech's own layout."""
    folder = corpus / "LibriSpeech" / subset
    for chapter, texts in {
        "84-100": {"84-100-0000": "IT IS A TEST", "84-100-0001": "DON'T WORRY ABOUT IT"},
        "1272-7": {"1272-7-0000": "A SECOND SPEAKER"},
    }.items():
        chapter_folder = folder.joinpath(*chapter.split("-"))
        write_transcript(chapter_folder / f"{chapter}.trans.txt", texts)
        for item in texts:
            write_audio(chapter_folder / f"{item}.{extension}")
    return folder


def report_of(output: Path, name: str) -> dict[str, object]:
    return json.loads((output / f"{name}.report.json").read_text(encoding="utf-8"))


def reasons(report: prepare.Report) -> dict[str, str]:
    return {item.id: item.reason for item in report.left_out}


@pytest.mark.parametrize("extension", ["flac", "opus", "wav", "ogg", "mp3"])
def test_librispeech_layout(tmp_path: Path, extension: str) -> None:
    make_tree(tmp_path, "some-set", extension)
    report, made_now = prepare.prepare_subset(tmp_path, "some-set", tmp_path / "manifests")
    assert made_now and not report.left_out
    utterances = read_manifest(tmp_path / "manifests" / "some-set.jsonl")
    assert [(item.id, item.text, item.speaker) for item in utterances] == [
        ("1272-7-0000", "a second speaker", "1272"),
        ("84-100-0000", "it is a test", "84"),
        ("84-100-0001", "don't worry about it", "84"),
    ]
    assert all(Path(item.audio_filepath).is_file() for item in utterances)
    assert all(item.duration == pytest.approx(2.0, abs=0.1) for item in utterances)
    assert report.hours == pytest.approx(6 / 3600, abs=1e-3)
    assert report.speakers == 2


def test_flat_layout_and_a_corpus_of_one_voice(tmp_path: Path) -> None:
    folder = tmp_path / "kathleen"
    write_transcript(
        folder / "kathleen.trans.txt",
        {"kathleen_a0001": "Author of the danger trail, etc.", "kathleen_a0002": "Hello there."},
    )
    write_audio(folder / "kathleen_a0001.opus", sample_rate=48000)
    write_audio(folder / "kathleen_a0002.opus", sample_rate=48000)
    prepare.prepare_subset(tmp_path, "kathleen", tmp_path)
    utterances = read_manifest(tmp_path / "kathleen.jsonl")
    assert [item.id for item in utterances] == ["kathleen_a0001", "kathleen_a0002"]
    assert utterances[1].text == "hello there"
    assert {item.speaker for item in utterances} == {"kathleen"}


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    write_transcript(
        folder / "flat.trans.txt",
        {
            "good": "it is fine",
            "no": "no",
            "silent": "",
            "dots": "...",
            "absent": "no such audio",
            "broken": "not audio at all",
            "hollow": "an empty file",
            "fast": "much too much text " * 10,
            "slow": "short",
            "long": "a sentence of normal speed " * 10,
            "same": "the text and the audio are there twice",
        },
    )
    for item in ("good", "no", "silent", "dots", "fast", "unknown"):
        write_audio(folder / f"{item}.wav", 2.0)
    write_audio(folder / "slow.flac", 5.0)
    write_audio(folder / "long.flac", 20.0)
    write_audio(folder / "same.flac")
    write_audio(folder / "same.wav")
    (folder / "broken.flac").write_bytes(b"no audio" * 100)
    (folder / "hollow.opus").touch()
    report, _ = prepare.prepare_subset(tmp_path, "flat", tmp_path / "out", max_seconds=15.0)
    assert [item.id for item in read_manifest(tmp_path / "out" / "flat.jsonl")] == ["good", "no"]
    assert reasons(report) == {
        "absent": "no audio",
        "unknown": "no transcript",
        "broken": "unreadable audio",
        "hollow": "unreadable audio",
        "silent": "empty text",
        "dots": "empty text",
        "fast": "too much text",
        "slow": "too little text",
        "long": "too long",
        "same": "ambiguous",
    }
    described = prepare.describe("flat", report, True)
    assert "too much text: 1 (fast)" in described
    written = report_of(tmp_path / "out", "flat")["left_out"]
    assert isinstance(written, list) and len(written) == 10


def test_the_second_run_does_nothing(tmp_path: Path) -> None:
    make_tree(tmp_path, "dev")
    prepare.prepare_subset(tmp_path, "dev", tmp_path)
    manifest = tmp_path / "dev.jsonl"
    before = manifest.stat()
    report, made_now = prepare.prepare_subset(tmp_path, "dev", tmp_path)
    assert not made_now and report.utterances == 3
    assert (manifest.stat().st_mtime_ns, manifest.stat().st_ino) == (
        before.st_mtime_ns,
        before.st_ino,
    )
    assert prepare.prepare_subset(tmp_path, "dev", tmp_path, force=True)[1]
    assert prepare.prepare_subset(tmp_path, "dev", tmp_path, max_seconds=9.0)[1], "new settings"
    manifest.write_text(manifest.read_text(encoding="utf-8")[:50], encoding="utf-8")
    assert prepare.prepare_subset(tmp_path, "dev", tmp_path, max_seconds=9.0)[1], "cut manifest"


def test_an_interrupted_run_leaves_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path, "dev")

    def interrupt(path: Path) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "audio_duration", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_subset(tmp_path, "dev", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
    assert prepare.prepare_subset(tmp_path, "dev", tmp_path / "out")[1]


def test_the_known_size_of_a_subset_is_compared(tmp_path: Path) -> None:
    make_tree(tmp_path, "dev-clean")
    report, _ = prepare.prepare_subset(tmp_path, "LibriSpeech/dev-clean", tmp_path)
    assert report.missing_utterances == 2700
    assert "2700 of them were not found" in prepare.describe("dev-clean", report, True)


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for subset, message in {"nowhere": "'nowhere' not found", "empty": "no *.trans.txt"}.items():
        arguments = ["--corpus", str(tmp_path), "--subsets", subset, "--output", str(tmp_path)]
        assert prepare.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


# Downloads


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive such as openslr's, of a subset `tiny-set`."""
    source = tmp_path / "source"
    make_tree(source, "tiny-set")
    (source / "LibriSpeech" / "README.TXT").write_text("read me", encoding="utf-8")
    path = tmp_path / "served" / "tiny-set.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source / "LibriSpeech", "LibriSpeech")
    return path


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file, with ranges; hangs up after `budget` bytes while that is set."""

    content = b""
    budget: int | None = None
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.content[start:]
        if wanted and not body:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.budget is None else body[: self.budget])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(archive: Path) -> Iterator[tuple[type[Server], download.Archive]]:
    handler = type("OneFile", (Server,), {"content": archive.read_bytes(), "ranges": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{httpd.server_port}/tiny-set.tar.gz"
        yield handler, described(archive, url)
        httpd.shutdown()


def described(archive: Path, url: str | None = None) -> download.Archive:
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    return download.Archive(url or archive.as_uri(), "sha256", checksum)


def test_download_and_prepare(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = {"tiny-set": described(archive)}
    monkeypatch.setattr(download, "known_archives", lambda mirror: archives)
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    arguments = f"--corpus {corpus} --subsets tiny-set --output {output} --download".split()
    assert prepare.main(arguments) == 0
    assert len(read_manifest(output / "tiny-set.jsonl")) == 3
    assert (corpus / "LibriSpeech" / "README.TXT").exists()
    assert sorted(path.name for path in corpus.iterdir()) == ["LibriSpeech"], "nothing left over"
    archive.unlink()
    assert prepare.main(arguments) == 0, "nothing to download again"


def test_an_interrupted_download_is_continued(
    tmp_path: Path, archive: Path, server: tuple[type[Server], download.Archive]
) -> None:
    handler, archived = server
    path = tmp_path / "corpus" / "tiny-set.tar.gz"
    handler.budget = 1000
    with pytest.raises(download.DownloadError, match="after 1000 bytes.*continues it"):
        download.fetch(archived, path)
    assert not path.exists()
    handler.budget = None
    download.fetch(archived, path)
    assert path.read_bytes() == archive.read_bytes()
    assert handler.ranges == [None, "bytes=1000-"]


def test_a_transfer_that_ended_before_the_rename_is_continued(
    tmp_path: Path, archive: Path, server: tuple[type[Server], download.Archive]
) -> None:
    _, archived = server
    path = tmp_path / "tiny-set.tar.gz"
    shutil.copy(archive, path.with_name(path.name + ".partial"))
    download.fetch(archived, path)
    assert path.read_bytes() == archive.read_bytes()


def test_a_server_without_ranges_starts_again(tmp_path: Path, archive: Path) -> None:
    path = tmp_path / "tiny-set.tar.gz"
    path.with_name(path.name + ".partial").write_bytes(b"the first bytes")
    download.fetch(described(archive), path)
    assert path.read_bytes() == archive.read_bytes()


def test_a_wrong_checksum_keeps_nothing(tmp_path: Path, archive: Path) -> None:
    wrong = download.Archive(archive.as_uri(), "md5", "0" * 32)
    with pytest.raises(download.DownloadError, match=r"md5 is [0-9a-f]{32}, wanted 0{32}"):
        download.download_subset(tmp_path / "corpus", "tiny-set", {"tiny-set": wrong})
    assert not list((tmp_path / "corpus").iterdir())


def test_a_broken_archive_leaves_no_subset(tmp_path: Path, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-500])
    corpus = tmp_path / "corpus"
    with pytest.raises(download.DownloadError, match="cannot be unpacked"):
        download.download_subset(corpus, "tiny-set", {"tiny-set": described(archive)})
    assert not (corpus / "LibriSpeech").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "LibriSpeech/link"])
def test_an_archive_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.tar.gz"
    member = tarfile.TarInfo(name)
    if name.endswith("link"):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member)
    with pytest.raises(download.DownloadError, match="unwanted member"):
        download.download_subset(tmp_path / "corpus", "bad", {"bad": described(path)})


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    folder = make_tree(tmp_path, "mine")
    nowhere = download.Archive("file:///nowhere", "md5", "")
    assert download.download_subset(tmp_path, "mine", {"mine": nowhere}) == folder


def test_an_unknown_subset_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(download.DownloadError, match="'x': known are .*dev-clean-2.*test-other"):
        download.download_subset(tmp_path, "x")


def test_every_known_subset_has_a_size_and_a_checksum() -> None:
    archives = download.known_archives()
    assert archives.keys() == download.UTTERANCES.keys()
    lengths = {"md5": 32, "sha256": 64}
    assert all(len(item.checksum) == lengths[item.algorithm] for item in archives.values())


def test_a_mirror_serves_the_same_archives() -> None:
    usual, mirrored = download.known_archives(), download.known_archives("http://here:8000/slr/")
    assert set(usual) == set(download.UTTERANCES) and len(usual) == 9
    for subset, archive in usual.items():
        assert mirrored[subset].checksum == archive.checksum
        path = archive.url.removeprefix("https://www.openslr.org")
        assert mirrored[subset].url == f"http://here:8000/slr{path}"
        assert path.endswith(f"/{subset}.tar.gz")
