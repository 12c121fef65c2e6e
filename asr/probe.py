"""What a network does to a few fixed utterances: where it attends, and what augmentation hides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from asr import plot
from asr.audio import AudioError
from asr.augment import augmented_features
from asr.batch import Batch
from asr.config import Config
from asr.dataset import SpeechDataset
from asr.features import LogMel
from asr.model import SpeechModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTENTION_SECONDS = (3.0, 6.0)  # durations of the dev utterances shown: the characters stay legible
SPECTROGRAM_SECONDS = 5.0


class Probe:
    """Draws the same utterances again and again in the course of a run.

    Args:
        dev_set: Of two of its utterances the attention is shown, another one is shown before and
            after augmentation; may be empty.
        config: Augmentation and features.
    """

    def __init__(self, dev_set: SpeechDataset, config: Config) -> None:
        self.dev_set = dev_set
        self.config = config
        self.attended = _nearest(dev_set, ATTENTION_SECONDS)
        self.augmented = _nearest(dev_set, (SPECTROGRAM_SECONDS,))

    def draw(
        self, model: SpeechModel, features: LogMel, step: int, with_decoder: bool
    ) -> dict[str, Figure]:
        """Return the pictures by name: none without matplotlib or where audio cannot be read.

        Args:
            model: The network; dropout is off meanwhile, whatever mode it is in.
            features: Its features, on the same device.
            step: Updates so far; augmentation is drawn from it.
            with_decoder: The decoder is being trained, so that its attention means something.
        """
        figures: dict[str, Figure] = {}
        if not plot.available():
            return figures
        try:
            if with_decoder and model.config.attention != "none":
                for number, index in enumerate(self.attended, start=1):
                    figures[f"attention-{number}"] = self.attention(model, features, index)
            for index in self.augmented:
                figures["augmentation"] = self.augmentation(features, index, step)
        except AudioError:  # validation and training say so themselves
            pass
        return figures

    def _read(self, index: int) -> Batch:
        batch = self.dev_set[[index]]
        if batch.problems:
            raise AudioError(batch.problems[0])
        return batch

    @torch.no_grad()
    def attention(self, model: SpeechModel, features: LogMel, index: int) -> Figure:
        """Draw where a dev utterance's characters attend, given those before them."""
        device = features.mean.device
        batch = self._read(index).to(device)
        was_training = model.training
        model.eval()
        try:
            encoded = model.encode(*features(batch.waveform, batch.num_samples))
            tokens = F.pad(batch.tokens, (1, 0), value=self.dev_set.tokenizer.sos_id)
            _, weights = model.decoder(tokens, encoded)  # (1, U + 1, S)
        finally:
            model.train(was_training)
        utterance = self.dev_set.utterances[index]
        return plot.plot_attention(
            weights[0].float().cpu().numpy(), [*utterance.text, "end"],
            self.config.features.shift_seconds * model.encoder.subsampling,
            f"Attention, dev utterance {utterance.id}",
        )  # fmt: skip

    @torch.no_grad()
    def augmentation(self, features: LogMel, index: int, step: int) -> Figure:
        """Draw a dev utterance's features before and after speed, gain and masks."""
        augment, settings = self.config.augment, self.config.features
        batch = self._read(index).to(features.mean.device)
        chance = random.Random(f"probe/{step}")
        before, _ = features(batch.waveform, batch.num_samples)
        after, lengths = augmented_features(
            features, batch.waveform, batch.num_samples, augment, settings, chance
        )
        speed = before.shape[1] / int(lengths)
        name = self.dev_set.utterances[index].id
        panels = [
            (f"Utterance {name}", before[0].cpu().numpy()),
            (f"The same at {speed:.1f} times the speed, with masks (grey)", after[0].cpu().numpy()),
        ]
        band = (settings.min_frequency, settings.max_frequency)
        return plot.plot_spectrograms(panels, settings.shift_seconds, band)


def _nearest(dataset: SpeechDataset, durations: Sequence[float]) -> list[int]:
    """Return the indices of utterances whose durations are nearest, each another if there are."""
    left = {index: utterance.duration for index, utterance in enumerate(dataset.utterances)}
    found = []
    for seconds in durations[: len(left)]:
        found.append(min(left, key=lambda index: abs(left[index] - seconds)))
        del left[found[-1]]
    return found
