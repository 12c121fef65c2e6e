"""When each word of a text was said, from the CTC path that spells it.

CTC says a character in one label and is silent in most others, and it says it late: by the time
of a label, the network has heard most of the sound. So a word's borders are not its first and
last label. The rules below were fitted to 5,500 words of LibriSpeech's dev sets that another
recogniser (PocketSphinx, Gaussian mixtures at 10 ms) had aligned; `scripts/bench_alignment.py`
measures what they are worth, at joints that are known exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.ctc import best_paths, peak_frames
from asr.features import LogMel
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer

# Seconds, counted between the beginnings of labels.
_PAUSE = 0.26  # words whose nearest characters are this far apart have silence between them;
_TAIL = 0.07  # there, a word ends so long after its last character
_HEAD = 0.03  # and the next begins so long before its first;
_LAG = 0.04  # else, one border for both lies so long before the middle of the two characters.

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
def align_words(
    log_probs: Tensor,
    lengths: Tensor,
    texts: Sequence[str],
    tokenizer: CharTokenizer,
    seconds: Sequence[float],
    label_seconds: float,
) -> list[list[WordSpan]]:
    """Find the words of known texts in recordings.

    Args:
        log_probs: (B, S, V) CTC log-probabilities of the labels.
        lengths: (B,) labels of each recording.
        texts: B texts in the tokenizer's alphabet, single spaces between words.
        tokenizer: Ids of the labels.
        seconds: B durations.
        label_seconds: From one label to the next.

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
            results.append(_spans(text, peaks[row], on_path[row], label_seconds, seconds[row]))
    return results


def _spans(
    text: str, peaks: Sequence[int], on_path: Sequence[float], label_seconds: float, seconds: float
) -> list[WordSpan]:
    """Put borders between the words of one text.

    Args:
        text: Of U characters.
        peaks: The label of each character.
        on_path: (S,) cumulative sums of the path's log-probabilities.
        label_seconds: From one label to the next.
        seconds: Of the whole recording.
    """
    words = []  # text, first and last label
    place = 0
    for word in text.split(" "):
        if word:
            words.append((word, peaks[place], peaks[place + len(word) - 1]))
        place += len(word) + 1
    starts, ends = [], []
    for number, (_, first, last) in enumerate(words):
        if number == 0:
            starts.append(first * label_seconds - _HEAD)
        if number + 1 == len(words):
            ends.append(last * label_seconds + _TAIL)
        else:
            end, start = _border(last * label_seconds, words[number + 1][1] * label_seconds)
            ends.append(end)
            starts.append(start)
    spans = []
    for (word, first, last), start, end in zip(words, starts, ends, strict=True):
        start = min(max(start, 0.0), seconds)
        end = min(max(end, start), seconds)
        score = on_path[last] - (on_path[first - 1] if first else 0.0)
        spans.append(WordSpan(word, start, end, score / len(word)))
    return spans


def _border(last: float, first: float) -> tuple[float, float]:
    """Return where a word ends and the next starts, from the two characters between, seconds."""
    if first - last >= _PAUSE:
        return last + _TAIL, first - _HEAD
    border = (last + first) / 2 - _LAG
    return border, border


def _share_time(text: str, seconds: float) -> list[WordSpan]:
    spans, place = [], 0
    for word in text.split(" "):
        start, end = place, place + len(word)
        share = seconds / len(text)
        if word:
            spans.append(WordSpan(word, start * share, end * share, UNALIGNED))
        place = end + 1
    return spans
