"""What training takes in: padded batches, and where in the data a run stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.lexicon import Lexicon
from asr.order import Leg
from asr.tokenizer import CharTokenizer

_TENSORS = (
    "waveform", "num_samples", "tokens", "token_lengths", "counts", "phones", "phone_lengths",
)  # fmt: skip
_MOST_SILENT = 100  # updates on end in which a process could read nothing


@dataclass(frozen=True)
class Batch:
    """Padded utterances.

    Attributes:
        waveform: (B, N) float32, zero on padding.
        num_samples: (B,) samples.
        tokens: (B, U) character ids, padded with ``pad_id``.
        token_lengths: (B,) characters.
        counts: (B,) bool, False where an utterance only stands in: every process must make
            every update, also one that has no utterance for it.
        indices: Which utterances of the data these are, -1 for silence that stands in.
        ids: Names of these utterances, in the same order; empty if nobody asks for them.
        problems: What was wrong with what could not be read and is left out.
        phones: (B, P) phone ids of the texts, padded with 0; see `with_phones`.
        phone_lengths: (B,) phones.
    """

    waveform: Tensor
    num_samples: Tensor
    tokens: Tensor
    token_lengths: Tensor
    counts: Tensor
    indices: tuple[int, ...]
    ids: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    phones: Tensor | None = None
    phone_lengths: Tensor | None = None

    def with_phones(self, lexicon: Lexicon, tokenizer: CharTokenizer) -> Batch:
        """Return the batch, on the CPU, with the pronunciation of its texts."""
        lengths = self.token_lengths.tolist()
        texts = [
            tokenizer.decode(row[:n]) for row, n in zip(self.tokens.tolist(), lengths, strict=True)
        ]
        spoken = [torch.tensor(lexicon.encode(text), dtype=torch.long) for text in texts]
        return replace(
            self,
            phones=pad_sequence(spoken, batch_first=True),
            phone_lengths=torch.tensor([len(phones) for phones in spoken]),
        )

    def twice(self) -> Batch:
        """Return the batch with all its utterances a second time behind themselves."""
        doubled = self._each(lambda tensor: torch.cat([tensor, tensor]))
        return replace(doubled, indices=self.indices * 2, ids=self.ids * 2)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU fetches it unattended."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: getattr(self, name) for name in _TENSORS}
        changed: dict[str, Any] = {n: change(t) for n, t in tensors.items() if t is not None}
        return replace(self, **changed)


def make_batch(
    waveforms: Mapping[int, Tensor],
    texts: Sequence[str],
    tokenizer: CharTokenizer,
    sample_rate: int,
    problems: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> Batch:
    """Pad utterances.

    Args:
        waveforms: (N,) float32 by the indices of the utterances, negative (``~index``) for
            those that do not count; if there is none, a second of silence stands in.
        texts: Their transcripts, in the same order.
        tokenizer: Turns texts into ids.
        sample_rate: Hz.
        problems: What is left out.
        ids: Names of the utterances.
    """
    indices = tuple(index if index >= 0 else ~index for index in waveforms)
    counts = [index >= 0 for index in waveforms]
    sounds = list(waveforms.values())
    if not sounds:
        sounds, texts, ids = [torch.zeros(sample_rate)], [""], [""]
        indices, counts = (-1,), [False]
    tokens = [torch.tensor(tokenizer.encode(text or tokenizer.alphabet[0])) for text in texts]
    return Batch(
        waveform=pad_sequence(sounds, batch_first=True),  # (B, N)
        num_samples=torch.tensor([len(sound) for sound in sounds]),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=tokenizer.pad_id),  # (B, U)
        token_lengths=torch.tensor([len(t) for t in tokens]),
        counts=torch.tensor(counts),
        indices=indices,
        ids=tuple(ids),
        problems=tuple(problems),
    )


@dataclass(frozen=True)
class Position:
    """Where in the data a run stands; the same in all processes.

    Attributes:
        epoch: Passes over the data done.
        legs: What was taken of this one, in the order of time.
        corpus: Mark of the data and settings that the legs hold for, empty at an epoch's begin.
    """

    epoch: int = 0
    legs: tuple[Leg, ...] = ()
    corpus: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Position:
        """Rebuild a position from what ``dataclasses.asdict`` or JSON made of it."""
        legs = tuple(Leg(**leg) for leg in values["legs"])
        return cls(values["epoch"], legs, values["corpus"])


class TrainingSource(Protocol):
    """Where training gets its batches, from manifests or shards alike.

    Attributes:
        messages: Lines for the user: hours, and what was left out.
        epoch_hours: Audio of a pass of all processes, None if unknown.
        num_batches: Updates in a pass, None if unknown; about, as epochs differ a little.
    """

    messages: list[str]

    @property
    def epoch_hours(self) -> float | None: ...

    @property
    def num_batches(self) -> int | None: ...

    def batches(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Return this process's batches, epoch after epoch, each with the position behind it.

        If the position does not fit the data, its epoch starts anew, and ``messages`` says so
        when this returns. A file that cannot be read goes into a batch's problems.

        Raises:
            ValueError: (of the iterator) Nothing at all can be read any more.
        """
        ...

    def texts(self, count: int) -> list[str]:
        """Return about ``count`` normalised texts, in all processes alike.

        Raises:
            ValueError: None can be read.
        """
        ...

    def waveforms(self, count: int) -> list[Tensor]:
        """Return about ``count`` (N,) waveforms from all over the data, in all processes alike.

        Raises:
            ValueError: None can be read.
        """
        ...


def unless_all_silent(
    pairs: Iterator[tuple[Batch, Position]],
) -> Iterator[tuple[Batch, Position]]:
    """Pass batches on, but end a run whose data is gone: one bad file is no reason, all are.

    Raises:
        ValueError: Nothing could be read for many updates on end.
    """
    silent = 0
    for batch, position in pairs:
        readable = bool(batch.counts.any()) or not batch.problems
        silent = 0 if readable else silent + 1
        if silent == _MOST_SILENT:
            raise ValueError(
                f"training data: found nothing readable in {silent} updates on end, wanted audio; "
                f"the last: {batch.problems[-1]}"
            )
        yield batch, position
