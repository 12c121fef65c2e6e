"""Short recordings in batches: order, company and size do not change what is recognised."""


import numpy as np
import pytest
from numpy.typing import NDArray
from random_model import save_random_model

import asr.batch
from asr.batch import recognize
from asr.checkpoint import ModelBundle, load_model
from asr.config import SearchConfig

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return load_model(save_random_model(tmp_path_factory.mktemp("models") / "tiny"))


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
    assert together == [recognize(tiny_bundle, [w], search)[0] for w in waveforms]
    assert len(set(together)) > 3


def test_nothing_gives_nothing(tiny_bundle: ModelBundle) -> None:
    assert recognize(tiny_bundle, []) == []


def test_batches_are_bounded_and_hold_everything_once() -> None:
    generator = np.random.default_rng(0)
    seconds = generator.uniform(0.1, 30.0, 200).tolist()
    batches = list(asr.batch._batches(seconds))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    assert all(len(b) * max(seconds[i] for i in b) <= 240.0 for b in batches)
    assert len(batches) < 20
    assert list(asr.batch._batches([500.0, 1.0])) == [[0], [1]]


def test_progress_ends_at_the_whole(
    tiny_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asr.batch, "_BATCH_SECONDS", 2.0)
    calls: list[tuple[float, float]] = []
    recognize(tiny_bundle, sounds(16000, 32000, 8000), progress=lambda *call: calls.append(call))
    assert calls == [(2.0, 3.5), (3.5, 3.5)]
