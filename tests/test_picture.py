"""Pictures of transcripts: whole or not at all, and errors that say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from random_model import save_random_model

from asr.checkpoint import ModelBundle, load_model
from asr.config import SearchConfig
from asr.picture import PlotError, plot_transcript, what_is_drawn
from asr.pieces import recognize
from asr.transcript import Segment, Transcript, Word

WAVEFORM = (0.2 * np.random.default_rng(0).standard_normal(64000)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return load_model(save_random_model(tmp_path_factory.mktemp("models") / "random"))


@pytest.fixture(scope="module")
def transcript(bundle: ModelBundle) -> Transcript:
    found = recognize(bundle, [WAVEFORM[:32000], WAVEFORM[32000:]], SearchConfig(beam_size=3))
    return Transcript((found[0].to_segment(0.0, 2.0), found[1].to_segment(2.0, 4.0)), 4.0)


def draw(path: Path, transcript: Transcript, bundle: ModelBundle) -> None:
    parts = (bundle.model, bundle.features, bundle.tokenizer)
    pieces = [
        (segment, WAVEFORM[round(segment.start * 16000) : round(segment.end * 16000)])
        for segment in transcript.segments
    ]
    plot_transcript(path, pieces, transcript, *parts, title="two pieces")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written(
    suffix: str, bundle: ModelBundle, transcript: Transcript, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    draw(tmp_path / f"talk.{suffix}", transcript, bundle)
    assert [path.name for path in tmp_path.iterdir()] == [f"talk.{suffix}"]
    start = (tmp_path / f"talk.{suffix}").read_bytes()[:5]
    assert start == (b"\x89PNG\r" if suffix == "png" else b"<?xml")


def test_what_cannot_be_drawn(bundle: ModelBundle, transcript: Transcript, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(PlotError, match=r"found suffix 'doc', wanted png, svg or pdf"):
        draw(tmp_path / "talk.doc", transcript, bundle)
    with pytest.raises(PlotError, match=r"found no words in the transcript"):
        draw(tmp_path / "talk.png", Transcript((Segment(0.0, 1.0, "a"),), 4.0), bundle)
    assert not list(tmp_path.iterdir())
    with pytest.raises(PlotError, match="found no folder .*missing, wanted one to write to"):
        draw(tmp_path / "missing" / "talk.png", transcript, bundle)


def test_without_matplotlib_the_extra_is_named(
    bundle: ModelBundle, transcript: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PlotError, match=r"found no matplotlib; pip install 'asr\[plot\]'"):
        draw(tmp_path / "talk.png", transcript, bundle)


def test_what_a_picture_of_a_long_recording_shows() -> None:
    words = (Word("a", 0.0, 0.5),)
    segments = tuple(Segment(30.0 * n, 30.0 * n + 20, "a", words) for n in range(200))
    transcript = Transcript((*segments, Segment(6001.0, 6002.0, "b")), 6005.4)
    assert what_is_drawn(200, segments[-1], transcript) == ""
    assert what_is_drawn(8, segments[7], transcript) == (
        "the first 8 of 200 pieces of speech, to 3:50 of 1:40:05"
    )
