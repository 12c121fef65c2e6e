"""The speech detector against the package that its weights come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_segment import buzz, hush

from asr.vad import FRAME, load_detector

WAVEFORM = np.concatenate([hush(1.0), buzz(2.0), hush(0.5), buzz(1.0, 3)])
WAVEFORM = torch.from_numpy(WAVEFORM[: len(WAVEFORM) // FRAME * FRAME])


def test_it_is_the_model_of_its_package() -> None:
    num_threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(num_threads)
    theirs = silero_vad.load_silero_vad()
    with torch.inference_mode():
        frames = [theirs(frame, 16000).item() for frame in WAVEFORM.split(FRAME)]
    detector = load_detector()
    probabilities, _ = detector(WAVEFORM, detector.initial_state())
    np.testing.assert_allclose(probabilities.numpy(), frames, atol=1e-4)
    assert max(frames) > 0.5 and min(frames) < 0.05


@pytest.mark.parametrize("frames_each", [1, 7, 50])
def test_blocks_are_heard_as_a_whole(frames_each: int) -> None:
    detector = load_detector()
    whole, _ = detector(WAVEFORM, detector.initial_state())
    state = detector.initial_state()
    parts = []
    for block in WAVEFORM.split(frames_each * FRAME):
        probabilities, state = detector(block, state)
        parts.append(probabilities)
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_loading_it_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        load_detector.cache_clear()
        load_detector()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
