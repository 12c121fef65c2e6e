"""Short recordings in batches: order, company and size do not change what is recognised."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import asr.pieces
from asr.checkpoint import ModelBundle
from asr.config import SearchConfig
from asr.pieces import recognize

Array = NDArray[np.float32]


def sounds(*lengths: int) -> list[Array]:
    generator = np.random.default_rng(7)
    return [(0.2 * generator.standard_normal(n)).astype(np.float32) for n in lengths]


@pytest.mark.parametrize("method", ["ctc", "greedy", "beam"])
def test_texts_come_in_order_and_do_not_depend_on_their_company(
    tiny_bundle: ModelBundle, method: str
) -> None:
    search = SearchConfig(method=method, beam_size=2)  # type: ignore[arg-type]
    waveforms = sounds(16000, 3000, 40000, 1, 16000, 24000)
    together = recognize(tiny_bundle, waveforms, search)
    alone = [recognize(tiny_bundle, [w], search)[0] for w in waveforms]
    assert [heard.text for heard in together] == [heard.text for heard in alone]
    assert len({heard.text for heard in together}) > 3
    for ours, truth in zip(together, alone, strict=True):
        assert " ".join(word.text for word in ours.words) == ours.text
        for word, same in zip(ours.words, truth.words, strict=True):
            assert (word.start, word.end) == (same.start, same.end)
            assert word.confidence == pytest.approx(same.confidence, abs=1e-3)


def test_soft_sound_is_heard_as_if_it_were_louder(tiny_bundle: ModelBundle) -> None:
    [waveform] = sounds(24000)  # -14 dB of full scale
    waveform *= np.float32(0.012 / waveform.std())  # louder than what is made louder
    [wanted] = recognize(tiny_bundle, [waveform])
    faint = [waveform * np.float32(scale) for scale in (0.3, 0.1, 0.03)]
    assert {heard.text for heard in recognize(tiny_bundle, faint)} == {wanted.text}
    offset = [waveform * np.float32(0.03) + np.float32(0.2)]  # is no sound, and stays where it is
    for constant in (0.0, 0.5):
        recognize(tiny_bundle, [np.full(8000, constant, np.float32), *offset])
    assert asr.pieces._audible(waveform) is waveform
    lifted = asr.pieces._audible(faint[2])
    assert lifted.dtype == np.float32 and lifted.std() == pytest.approx(0.01, rel=1e-3)


def test_words_are_only_found_if_wanted(tiny_bundle: ModelBundle) -> None:
    [heard] = recognize(tiny_bundle, sounds(16000), words=False)
    assert heard.text and heard.words == () and heard.confidence is None


def test_a_piece_takes_its_place_in_a_recording(tiny_bundle: ModelBundle) -> None:
    search = SearchConfig(beam_size=4, nbest=3)
    [heard] = recognize(tiny_bundle, sounds(40000), search)
    segment = heard.to_segment(10.0, 12.5)
    assert (segment.start, segment.end, segment.text) == (10.0, 12.5, heard.text)
    assert segment.confidence == heard.confidence and segment.nbest == heard.nbest
    for word, there in zip(heard.words, segment.words, strict=True):
        assert there == replace(word, start=10.0 + word.start, end=10.0 + word.end)
        assert 10.0 <= there.start <= there.end <= 12.5


def test_nothing_gives_nothing(tiny_bundle: ModelBundle) -> None:
    assert recognize(tiny_bundle, []) == []


def test_batches_are_bounded_and_hold_everything_once() -> None:
    generator = np.random.default_rng(0)
    seconds = generator.uniform(0.1, 30.0, 200).tolist()
    batches = list(asr.pieces._batches(seconds, 240.0))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert all(len(b) * max(seconds[i] for i in b) <= 240.0 for b in batches)
    assert len(batches) < 20
    assert list(asr.pieces._batches([500.0, 1.0], 240.0)) == [[0], [1]]
