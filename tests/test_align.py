"""Word times: borders by hand, and recordings put together from clips at known joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.align import UNALIGNED, align_words, label_seconds, measure_loudness
from asr.audio import load_audio
from asr.checkpoint import load_model
from asr.manifest import read_manifest
from asr.tokenizer import CharTokenizer

TINY = Path(__file__).parents[1] / "data" / "tiny"
TOKENIZER = CharTokenizer(" ab")


def spell(labels: str, sure: float = 0.9) -> Tensor:
    """Return log-probabilities (1, S, V) that say one label a frame; "-" is blank."""
    ids = torch.tensor([0 if c == "-" else TOKENIZER.encode(c)[0] for c in labels])
    probabilities = torch.full((1, len(labels), TOKENIZER.size), (1 - sure) / (TOKENIZER.size - 1))
    probabilities[0, torch.arange(len(labels)), ids] = sure
    return probabilities.log()


def align(labels: str, text: str) -> list:
    [words] = align_words(
        spell(labels), torch.tensor([len(labels)]), [text], TOKENIZER, [len(labels) * 0.04], 0.04
    )
    return words


def test_borders_lie_between_the_characters() -> None:
    first, second = align("----ab- -ba----------", "ab ba")
    assert (first.text, second.text) == ("ab", "ba")
    # Characters at 4, 5, 9 and 10: the border lies 0.04 s before the middle of 5 and 9.
    assert first.start == pytest.approx(4 * 0.04 - 0.03)
    assert first.end == second.start == pytest.approx(7 * 0.04 - 0.04)
    assert second.end == pytest.approx(10 * 0.04 + 0.07)
    # Two, or three, characters on the path for two letters, and each sure by 0.9.
    assert first.score == pytest.approx(np.log(0.9), abs=1e-4)


def test_silence_belongs_to_no_word() -> None:
    first, second = align("-a--------- --b-----", "a b")
    assert first.end == pytest.approx(1 * 0.04 + 0.07)
    assert second.start == pytest.approx(14 * 0.04 - 0.03)


def loud(*seconds: tuple[float, float], length: float = 0.84, noise: float = 1e-3) -> Tensor:
    """Return the loudness of noise that is loud from some seconds to others."""
    waveform = noise * torch.randn(1, round(16000 * length), generator=torch.manual_seed(0))
    for start, end in seconds:
        waveform[0, round(16000 * start) : round(16000 * end)] *= 100
    [loudness] = measure_loudness(waveform, torch.tensor([waveform.shape[1]]), 16000)
    assert len(loudness) == round(100 * length)
    return loudness


def align_with(loudness: Tensor, labels: str = "----ab- -ba----------") -> list[float]:
    words = align_words(
        spell(labels), torch.tensor([21]), ["ab ba"], TOKENIZER, [0.84], 0.04, [loudness]
    )[0]
    return [time for word in words for time in (word.start, word.end)]


def test_borders_lie_where_sound_ends_and_begins() -> None:
    # Characters at 0.16, 0.2, 0.36 and 0.4 s.
    heard = align_with(loud((0.1, 0.24), (0.34, 0.5)))
    assert heard == pytest.approx([0.1, 0.24, 0.34, 0.5], abs=0.011)
    # One that is far from its label is another sound, such as a breath.
    assert align_with(loud((0.1, 0.24), (0.34, 0.5), (0.7, 0.8)))[3] == pytest.approx(
        0.5, abs=0.011
    )
    guessed = align_with(torch.zeros(84))
    assert guessed == pytest.approx([0.13, 0.24, 0.24, 0.47])


@pytest.mark.parametrize(
    "loudness",
    [
        loud((0.0, 0.84)),  # no pause
        loud((0.0, 0.27), (0.31, 0.84)),  # a stop consonant
        loud(noise=0.1),  # nothing but noise
        loud((0.0, 0.05), (0.75, 0.84)),  # sounds too far from the labels to be the words
        torch.zeros(0),
    ],
)
def test_without_a_pause_the_network_says_where(loudness: Tensor) -> None:
    assert align_with(loudness) == pytest.approx([0.13, 0.24, 0.24, 0.47])


def test_words_stay_inside_the_recording() -> None:
    first, last = align("a b", "a b")
    assert first.start == 0.0 and last.end == pytest.approx(0.12)


def test_too_many_characters_share_the_time() -> None:
    words = align("a b", "aa bb")
    assert [word.text for word in words] == ["aa", "bb"]
    assert words[0].start == 0.0 and words[1].end == pytest.approx(0.12)
    assert words[0].end <= words[1].start and {word.score for word in words} == {UNALIGNED}


def test_no_words() -> None:
    assert align("--", "") == []
    assert align_words(torch.zeros(0, 1, 5), torch.zeros(0), [], TOKENIZER, [], 0.04) == []


def test_a_batch_gives_what_single_recordings_give() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(4, 30, TOKENIZER.size, generator=generator)).log_softmax(2)
    lengths, texts = torch.tensor([30, 12, 20, 3]), ["ab ba a", "b", "a a a a", "ab ab ab"]
    seconds = [1.2, 0.48, 0.8, 0.12]
    together = align_words(log_probs, lengths, texts, TOKENIZER, seconds, 0.04)
    for row, text in enumerate(texts):
        count = int(lengths[row])
        one = slice(row, row + 1)
        alone = align_words(
            log_probs[one, :count], lengths[one], [text], TOKENIZER, seconds[one], 0.04
        )
        for ours, truth in zip(together[row], alone[0], strict=True):
            assert (ours.text, ours.start, ours.end) == (truth.text, truth.start, truth.end)
            assert ours.score == pytest.approx(truth.score, abs=1e-5)
        ends = [0.0, *(word.end for word in together[row])]
        assert all(a <= w.start <= w.end for a, w in zip(ends, together[row], strict=False))
        assert ends[-1] <= seconds[row]


def trim(waveform: np.ndarray) -> np.ndarray:
    """Cut silence off a synthetic clip, whose silence is silent."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max())
    return waveform[loud[0] : loud[-1] + 1]


@pytest.mark.slow
def test_words_at_known_joints() -> None:
    """Clips of the tiny corpus, one behind the other with pauses: where they begin and end."""
    bundle = load_model()
    utterances = read_manifest(TINY / "dev.jsonl")[::3][:24]
    pauses = [0.0, 0.15, 0.3, 0.5]
    errors = []
    for start in range(0, len(utterances), 3):
        clips = utterances[start : start + 3]
        parts, edges, length = [np.zeros(4800)], [], 4800
        for number, utterance in enumerate(clips):
            clip = trim(load_audio(utterance.audio_filepath))
            edges.append((length / 16000, (length + len(clip)) / 16000))
            pause = round(16000 * pauses[(start // 3 + number) % len(pauses)])
            parts += [clip, np.zeros(pause)]
            length += len(clip) + pause
        waveform = np.concatenate([*parts, np.zeros(4800)]).astype(np.float32)
        waveform += np.random.default_rng(start).normal(0, 3e-4, len(waveform)).astype(np.float32)
        samples = torch.from_numpy(waveform)[None]
        with torch.inference_mode():
            encoded = bundle.model.encode(
                *bundle.features(samples, torch.tensor([samples.shape[1]]))
            )
            [words] = align_words(
                *bundle.model.ctc_log_probs(encoded),
                [" ".join(u.text for u in clips)],
                bundle.tokenizer,
                [samples.shape[1] / 16000],
                label_seconds(bundle.model, bundle.features),
                measure_loudness(samples, torch.tensor([samples.shape[1]]), 16000),
            )
        place = 0
        for utterance, (begins, ends) in zip(clips, edges, strict=True):
            last = place + len(utterance.text.split()) - 1
            errors += [words[place].start - begins, words[last].end - ends]
            place = last + 1
    assert len(errors) == 48
    assert np.median(np.abs(errors)) < 0.06
    assert abs(np.median(errors)) < 0.03
