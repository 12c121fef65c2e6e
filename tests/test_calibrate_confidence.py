"""`scripts/calibrate_confidence.py`: each text is held against its own reference."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.checkpoint import ModelBundle
from asr.decode import Recognition
from asr.manifest import Utterance
from asr.transcript import Word

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import calibrate_confidence as script


@pytest.mark.parametrize("lengths", [(8000, 8000, 8000), (8000, 9000, 8000)])
def test_recordings_of_one_length_keep_their_references(
    tiny_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lengths: tuple[int, ...],
) -> None:  # fmt: skip
    """A recogniser that hears a recording's loudness as its number makes no mistake."""
    utterances = []
    for number, length in enumerate(lengths):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.full(length, (number + 1) / 10), 16000)
        utterances.append(Utterance(str(path), length / 16000, "abc"[number]))

    def hear(bundle: ModelBundle, waveforms: list[np.ndarray], **_: object) -> list[Recognition]:
        found = []
        for waveform in waveforms:
            text = "abc"[round(10 * float(waveform.mean())) - 1]
            bundle.confidence(script.torch.zeros(1, len(script.FEATURES)))  # type: ignore[misc]
            found.append(Recognition(text, (Word(text, 0.0, 0.5),)))
        return found

    monkeypatch.setattr(script, "recognize", hear)
    config = replace(tiny_bundle.config, data=replace(tiny_bundle.config.data, normalize="none"))
    words = script.recognise(replace(tiny_bundle, config=config), utterances)
    assert words.right.tolist() == [1.0, 1.0, 1.0]
