"""A training step in parts that can be timed, and other ways of computing the same.

For `bench_training.py`. The step is that of `asr.train`; a test holds its gradients against those
of `asr.loss.JointLoss`, and the other ways against the network itself.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim.swa_utils import AveragedModel

from asr.augment import perturb_waveform, spec_augment
from asr.batch import Batch
from asr.checkpoint import build_model
from asr.config import Config
from asr.crf import label_trigram
from asr.ctc import ctc_feasible, ctc_loss, forced_align
from asr.dataset import SpeechDataset
from asr.lexicon import Lexicon
from asr.loss import JointLoss, UpdateSize
from asr.model import RECURRENT_CELLS, Decoder, EncoderOutput, RecurrentLayer
from asr.optimize import make_optimizer, step_if_finite, update_average

PARTS = ("data", "features", "encoder", "ctc", "phones", "alignment", "decoder", "optimizer")


@dataclass(frozen=True)
class Variant:
    """A network, and a way of training it."""

    name: str
    config: Config
    device: str
    threads: int
    packed: bool = False
    looped: bool = False
    compiled: bool = False
    processor_time: bool = False


class Clock:
    """Times the parts of a step; on a GPU by events, so that measuring makes nothing wait.

    Args:
        device: Where the step is made.
        processor_time: Of this process instead of the time that goes by.
    """

    def __init__(self, device: str, processor_time: bool = False) -> None:
        self.cuda = device == "cuda"
        self.now = time.process_time if processor_time else time.perf_counter
        self.marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        """Say that what came since the last mark belongs to a part."""
        moment: Any = self.now()
        if self.cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self.marks.append((name, moment))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part."""
        if self.cuda:
            torch.cuda.synchronize()
        result = dict.fromkeys(PARTS, 0.0)
        for (_, before), (name, after) in itertools.pairwise(self.marks):
            result[name] += before.elapsed_time(after) / 1000 if self.cuda else after - before
        return result


class PackedLayer(nn.Module):
    """A recurrent layer of the model as PyTorch's own bidirectional one over packed sequences."""

    def __init__(self, layer: RecurrentLayer, cell: str) -> None:
        super().__init__()
        first = layer.cells[0]
        assert isinstance(first, nn.RNNBase)
        both = len(layer.cells) == 2
        self.rnn = RECURRENT_CELLS[cell](
            first.input_size, first.hidden_size, batch_first=True, bidirectional=both
        )
        weights = dict(self.rnn.named_parameters())
        for direction, ending in zip(layer.cells, ("", "_reverse"), strict=False):
            for name, value in direction.named_parameters():
                weights[name + ending].data.copy_(value.data)
        self.norm, self.dropout, self.residual = layer.norm, layer.dropout, layer.residual
        self.output_width = layer.output_width

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, S, D) and the last states (B, D), as the model's layer does."""
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output, state = self.rnn(packed)
        hidden = state[0] if isinstance(state, tuple) else state  # (directions, B, width)
        y, _ = pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])
        y = self.dropout(self.norm(y))
        return (x + y if self.residual else y), hidden.transpose(0, 1).flatten(1)


def decode_looped(
    decoder: Decoder, tokens: Tensor, encoded: EncoderOutput
) -> tuple[Tensor, Tensor]:
    """Return what the decoder's teacher-forced pass does, character by character."""
    state = decoder.start(encoded)
    steps = []
    for position in range(tokens.shape[1]):
        logits, weights, state = decoder.advance(tokens[:, position : position + 1], state)
        steps.append((logits, weights))
    return torch.cat([s[0] for s in steps], dim=1), torch.cat([s[1] for s in steps], dim=1)


def size_of(batch: Batch) -> UpdateSize:
    """Return the size of an update that is one batch."""
    return UpdateSize.of(float(batch.token_lengths.sum()), len(batch.token_lengths), 1)


class Contestant:
    """A network in training, whose steps can be timed.

    Args:
        variant: What to build.
        texts: Of the training, for the trigram that phones are trained against.
    """

    def __init__(self, variant: Variant, texts: Iterable[str] = ()) -> None:
        torch.manual_seed(1)
        self.config = config = variant.config
        self.processor_time = variant.processor_time
        self.device = torch.device(variant.device)
        self.lexicon = Lexicon.open(config.data.lexicon) if config.data.lexicon else None
        trigram = None
        if self.lexicon:
            labels = self.lexicon.num_labels
            config = replace(config, model=replace(config.model, phone_labels=labels))
            if config.train.phone_loss == "crf":
                trigram = label_trigram(map(self.lexicon.encode, texts), labels).to(self.device)
        model, self.features, self.tokenizer = build_model(config)
        if variant.packed:
            cell = variant.config.model.encoder_cell
            model.encoder.layers = nn.ModuleList(PackedLayer(x, cell) for x in model.encoder.layers)
        self.model = model.to(self.device)
        self.features = self.features.to(self.device)
        self.loss = JointLoss(self.model, config.train, trigram)
        self.encode: Callable[..., EncoderOutput] = self.model.encoder
        self.decode: Callable[..., tuple[Tensor, Tensor]] = self.model.decoder
        if variant.looped:
            self.decode = lambda *args: decode_looped(self.model.decoder, *args)
        if variant.compiled:
            self.encode = torch.compile(self.encode, dynamic=True)
            self.decode = torch.compile(self.decode, dynamic=True)
        decay = variant.config.train.ema_decay
        self.average = AveragedModel(
            self.model, multi_avg_fn=lambda a, c, _: update_average(a, c, self.steps, decay)
        )
        self.steps = 0
        self.optimizer = make_optimizer(self.model, variant.config.train)

    def load(self, dataset: SpeechDataset, indices: Sequence[int]) -> Batch:
        """Return utterances as a batch on the device."""
        batch = dataset[indices]
        if self.lexicon:
            batch = batch.with_phones(self.lexicon, self.tokenizer)
        return batch.to(self.device)

    def prepare(self, batch: Batch, seed: int) -> tuple[Tensor, Tensor]:
        """Return augmented features (B, T, F) and their lengths."""
        chance, augment = random.Random(seed), self.config.augment
        waveform, num_samples = perturb_waveform(batch.waveform, batch.num_samples, augment, chance)
        features, lengths = self.features(waveform, num_samples)
        rate = 1 / self.config.features.shift_seconds
        return spec_augment(features, lengths, augment, chance, rate), lengths

    def differentiate(
        self, features: Tensor, lengths: Tensor, batch: Batch, clock: Clock
    ) -> Tensor:
        """Leave the gradients of `JointLoss` on the weights, part by part; return the loss.

        The graph is cut behind the encoder, so that each part's backward pass follows its forward
        pass at once and can be timed with it.
        """
        train, loss, tokens = self.config.train, self.loss, batch.tokens
        size = size_of(batch)
        bf16 = torch.autocast(self.device.type, torch.bfloat16, enabled=train.precision == "bf16")
        with bf16:
            encoded = self.encode(features, lengths)
        cut = replace(
            encoded,
            encoder_out=encoded.encoder_out.detach().requires_grad_(),
            final_state=encoded.final_state.detach().requires_grad_(),
        )
        clock.mark("encoder")
        with bf16:
            log_probs, label_lengths = self.model.ctc_log_probs(cut)
            ctc = ctc_loss(log_probs, label_lengths, tokens, batch.token_lengths).sum()
            ctc = train.ctc_weight * ctc / size.characters
        ctc.backward()
        clock.mark("ctc")
        phone = torch.zeros_like(ctc)
        if batch.phones is not None and batch.phone_lengths is not None:
            with bf16:
                phone_log_probs, _ = self.model.phone_log_probs(cut)
                spoken = (batch.phones, batch.phone_lengths)
                phone = loss.phone_loss(phone_log_probs, label_lengths, *spoken).sum()
                phone = train.phone_weight * phone / size.characters
            phone.backward()
        clock.mark("phones")
        guided = train.guided_attention_weight > 0 and self.config.model.attention != "none"
        if guided:
            frames = forced_align(log_probs.detach(), label_lengths, tokens, batch.token_lengths)
            feasible = ctc_feasible(tokens, batch.token_lengths, label_lengths)
        clock.mark("alignment")
        with bf16:
            heard = loss.for_decoder(self.model.with_phones_read(cut))
            logits, weights = self.decode(loss.with_start(tokens), heard)
            entropy = loss.cross_entropy(logits, tokens, batch.token_lengths, batch.counts)
            total = (1 - train.ctc_weight) * entropy / size.ends
            if guided:
                guide = loss.guide(weights[:, :-1], frames, batch.token_lengths * feasible)
                total = total + train.guided_attention_weight * guide / size.characters
        total.backward()
        clock.mark("decoder")
        pairs = ((encoded.encoder_out, cut.encoder_out), (encoded.final_state, cut.final_state))
        used = [(tensor, leaf.grad) for tensor, leaf in pairs if leaf.grad is not None]
        torch.autograd.backward([t for t, _ in used], [grad for _, grad in used])
        clock.mark("encoder")
        return (ctc + phone + total).detach()

    def step(self, dataset: SpeechDataset, indices: Sequence[int], seed: int) -> dict[str, float]:
        """Make one update; return the seconds of its parts."""
        clock = Clock(self.device.type, self.processor_time)
        clock.mark("data")
        batch = self.load(dataset, indices)
        clock.mark("data")
        features, lengths = self.prepare(batch, seed)
        clock.mark("features")
        self.differentiate(features, lengths, batch, clock)
        clip = self.config.train.gradient_clip
        step_if_finite(self.optimizer, nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        self.average.update_parameters(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        clock.mark("optimizer")
        return clock.seconds()
