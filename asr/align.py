"""When each word of a text was said, from the CTC path that spells it.

CTC says a character in one label and is silent in most others, and it says it late: by the time
of a label, the network has heard most of the sound. So a word's borders are not its first and
last label. Where there is silence between two words, the borders are where the sound ends and
begins again; elsewhere they follow the rules below, which were fitted to 5,500 words of
LibriSpeech's dev sets that another recogniser (PocketSphinx, Gaussian mixtures at 10 ms) had
aligned. `scripts/bench_alignment.py` measures what all this is worth, at joints that are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from asr.ctc import best_paths, peak_frames
from asr.features import LogMel
from asr.model import EncoderOutput, SpeechModel
from asr.tokenizer import CharTokenizer

# Seconds, counted between the beginnings of labels.
_PAUSE = 0.26  # words whose nearest characters are this far apart have silence between them;
_TAIL = 0.07  # there, a word ends so long after its last character
_HEAD = 0.03  # and the next begins so long before its first;
_LAG = 0.04  # else, one border for both lies so long before the middle of the two characters.

# Silence, in frames of 10 ms. It hears the sound, not the network, whatever the network's habits.
_FRAMES_PER_SECOND = 100
_LEAST_RANGE = 15.0  # decibels between loud and quiet; with less, noise hides the pauses
_QUIET = 0.12  # of that range: below is silence
_LEAST_SILENCE = 6  # shorter ones are those inside of consonants
_OVERLAP = 6  # a silence may begin so long before a word's last label, and end behind its first
_FARTHEST = 20  # a border is moved no farther from its label: a breath may lie between

UNALIGNED = -10.0  # score of words that CTC cannot spell in their time


@dataclass(frozen=True, slots=True)
class WordSpan:
    """One word and where it lies.

    Attributes:
        text: Without spaces.
        start: Seconds from the start of the recording.
        end: Seconds, never before `start` nor after the next word's start.
        score: Natural-log probability of the CTC path from the word's first character to its
            last, divided by their number.
    """

    text: str
    start: float
    end: float
    score: float


def label_seconds(model: SpeechModel, features: LogMel) -> float:
    """Return the time from one CTC label to the next."""
    frame: float = model.encoder.subsampling * features.config.shift_seconds
    return frame / model.config.ctc_labels_per_frame


@torch.no_grad()
def measure_loudness(waveform: Tensor, num_samples: Tensor, sample_rate: int) -> list[Tensor]:
    """Return how loud each hundredth of a second of a batch is, for `align_words`.

    Args:
        waveform: (B, N) floats in -1..1.
        num_samples: (B,) samples of each waveform.
        sample_rate: Hz.

    Returns:
        B tensors (T,) of decibels, high frequencies raised as speech lowers them.
    """
    hop = sample_rate // _FRAMES_PER_SECOND
    raised = waveform - 0.97 * functional.pad(waveform[:, :-1], (1, 0))
    power = raised[:, : raised.shape[1] // hop * hop].unflatten(1, (-1, hop)).square().mean(2)
    decibels = (10 * (power + 1e-10).log10()).cpu()  # (B, T)
    return [row[: count // hop] for row, count in zip(decibels, num_samples.tolist(), strict=True)]


def align_recordings(
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    encoded: EncoderOutput,
    waveform: Tensor,
    num_samples: Tensor,
    texts: Sequence[str],
) -> list[list[WordSpan]]:
    """Find the words of known texts in recordings, whose pauses are heard as well.

    Args:
        model: With CTC over characters.
        features: Its features.
        tokenizer: Its tokenizer.
        encoded: B recordings as `model` encodes them.
        waveform: (B, N) floats in -1..1.
        num_samples: (B,) samples of each waveform.
        texts: B texts.

    Returns:
        As `align_words`, and with its errors.
    """
    rate = features.config.sample_rate
    return align_words(
        *model.ctc_log_probs(encoded),
        texts,
        tokenizer,
        [count / rate for count in num_samples.tolist()],
        label_seconds(model, features),
        measure_loudness(waveform, num_samples, rate),
    )


@torch.no_grad()
def align_words(
    log_probs: Tensor,
    lengths: Tensor,
    texts: Sequence[str],
    tokenizer: CharTokenizer,
    seconds: Sequence[float],
    label_seconds: float,
    loudness: Sequence[Tensor] | None = None,
) -> list[list[WordSpan]]:
    """Find the words of known texts in recordings.

    Args:
        log_probs: (B, S, V) CTC log-probabilities of the labels.
        lengths: (B,) labels of each recording.
        texts: B texts in the tokenizer's alphabet, single spaces between words.
        tokenizer: Ids of the labels.
        seconds: B durations.
        label_seconds: From one label to the next.
        loudness: Of each recording, by `measure_loudness`; without, pauses are guessed.

    Returns:
        The words of each text, in order. Where a text has more characters than CTC can say in
        its time, the words share the time by their lengths, with the score `UNALIGNED`.

    Raises:
        ValueError: A text holds a character outside the alphabet, or the shapes do not fit.
    """
    if not texts:
        return []
    encoded = [torch.tensor(tokenizer.encode(text), dtype=torch.int64) for text in texts]
    counts = torch.tensor([len(ids) for ids in encoded])
    tokens = pad_sequence(encoded, batch_first=True, padding_value=tokenizer.pad_id)  # (B, U)
    scores = log_probs.float().cpu()
    paths = best_paths(scores, lengths.cpu(), tokens, counts, tokenizer.blank_id)  # (B, S)
    peaks = peak_frames(scores, paths, tokens.shape[1], tokenizer.blank_id).tolist()
    on_path = scores.gather(2, paths[..., None])[..., 0].double().cumsum(1).tolist()  # (B, S)
    results = []
    for row, text in enumerate(texts):
        if counts[row] and peaks[row][0] < 0:
            results.append(_share_time(text, seconds[row]))
        else:
            silences = [] if loudness is None else _find_silences(loudness[row])
            results.append(
                _spans(text, peaks[row], on_path[row], label_seconds, seconds[row], silences)
            )
    return results


def _spans(
    text: str,
    peaks: Sequence[int],
    on_path: Sequence[float],
    label_seconds: float,
    seconds: float,
    silences: Sequence[tuple[int, int]],
) -> list[WordSpan]:
    """Put borders between the words of one text.

    Args:
        text: Of U characters.
        peaks: The label of each character.
        on_path: (S,) cumulative sums of the path's log-probabilities.
        label_seconds: From one label to the next.
        seconds: Of the whole recording.
        silences: Of the whole recording, in frames.
    """
    words = []  # text, first and last label
    place = 0
    for word in text.split(" "):
        if word:
            words.append((word, peaks[place], peaks[place + len(word) - 1]))
        place += len(word) + 1
    starts, ends = [], []
    for number in range(len(words) + 1):
        last = words[number - 1][2] * label_seconds if number else None
        first = words[number][1] * label_seconds if number < len(words) else None
        end, start = _border(last, first, silences)
        ends.append(end)
        starts.append(start)
    spans = []
    for (word, first, last), start, end in zip(words, starts[:-1], ends[1:], strict=True):
        start = min(max(start, 0.0), seconds)
        end = min(max(end, start), seconds)
        score = on_path[last] - (on_path[first - 1] if first else 0.0)
        spans.append(WordSpan(word, start, end, score / len(word)))
    return spans


def _border(
    last: float | None, first: float | None, silences: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """Return where a word ends and the next starts, seconds.

    Args:
        last: Label of the word's last character, seconds; None before the first word.
        first: Of the next word's first character; None behind the last word.
        silences: Of the whole recording, in frames.
    """
    if last is None or first is None:
        end, start = (last or 0.0) + _TAIL, (first or 0.0) - _HEAD
    elif first - last >= _PAUSE:
        end, start = last + _TAIL, first - _HEAD
    else:
        end = start = (last + first) / 2 - _LAG
    from_frame = -math.inf if last is None else last * _FRAMES_PER_SECOND - _OVERLAP
    to_frame = math.inf if first is None else first * _FRAMES_PER_SECOND + _OVERLAP
    between = [(a, b) for a, b in silences if from_frame <= a and b <= to_frame]
    if not between:
        return end, start
    sound_ends, sound_begins = between[0][0], between[-1][1]
    heard_end, heard_start = end, start
    if last is not None and sound_ends - last * _FRAMES_PER_SECOND <= _FARTHEST:
        heard_end = sound_ends / _FRAMES_PER_SECOND
    if first is not None and first * _FRAMES_PER_SECOND - sound_begins <= _FARTHEST:
        heard_start = sound_begins / _FRAMES_PER_SECOND
    if last is not None and first is not None and heard_end > heard_start:
        return end, start
    return heard_end, heard_start


def _find_silences(loudness: Tensor) -> list[tuple[int, int]]:
    """Return the first frame and the one behind the last of each silence of loudness (T,)."""
    if len(loudness) == 0:
        return []
    low, high = loudness.quantile(torch.tensor([0.05, 0.95])).tolist()
    if high - low < _LEAST_RANGE:
        return []
    quiet = functional.pad((loudness < low + _QUIET * (high - low)).int(), (1, 1))
    change = quiet.diff()
    starts, ends = (change == 1).nonzero()[:, 0].tolist(), (change == -1).nonzero()[:, 0].tolist()
    return [(a, b) for a, b in zip(starts, ends, strict=True) if b - a >= _LEAST_SILENCE]


def _share_time(text: str, seconds: float) -> list[WordSpan]:
    spans, place = [], 0
    for word in text.split(" "):
        start, end = place, place + len(word)
        share = seconds / len(text)
        if word:
            spans.append(WordSpan(word, start * share, end * share, UNALIGNED))
        place = end + 1
    return spans
