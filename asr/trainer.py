"""One training run: its data, network and optimizer, where it stands, and its loop over updates."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from asr import distributed
from asr.augment import augmented_features
from asr.batch import Batch, Position
from asr.checkpoint import (
    CheckpointError,
    build_model,
    load_model,
    load_state,
    save_model,
    save_state,
)
from asr.config import Config, SearchConfig, SearchMethod, config_from_dict, config_to_dict
from asr.crf import label_trigram
from asr.dataset import open_source
from asr.finetune import check_start, freeze, network_differences, take_weights
from asr.imagine import Imagined, SpokenTexts
from asr.lexicon import Lexicon
from asr.loss import JointLoss, UpdateSize
from asr.model import SpeechModel
from asr.monitor import Monitor
from asr.optimize import learning_rate, make_optimizer, step_if_finite, update_average
from asr.precision import has_bfloat16
from asr.probe import Probe
from asr.run_report import describe_start, write_run_report
from asr.splice import Splicer, read_word_times
from asr.validate import load_dev_set, validate

STATISTICS_UTTERANCES = 200  # whose frames set the features' mean and deviation
TRIGRAM_TEXTS = 10_000  # whose phones are counted


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Updates done, skipped ones included.
        position: Where in the data.
        skipped: Updates left out because a loss or gradient was not finite.
        best_wer: Lowest WER on the dev utterances.
        audio_seconds: Of all batches that were trained on.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    skipped: int = 0
    best_wer: float = float("inf")
    audio_seconds: float = 0.0


@dataclass(frozen=True)
class Update:
    """What one update was made of and what it gave.

    Attributes:
        scalars: Losses and gradient norm of this process, on the device.
        audio_seconds: Of all processes.
        problems: What was wrong with files of this process.
    """

    scalars: dict[str, Tensor]
    audio_seconds: float
    problems: tuple[str, ...]


class Trainer:
    """One run: data, network, optimizer, and where it stands.

    Args:
        config: All settings.
        device: Where this process computes.

    Raises:
        ValueError: Data, configuration or a state to resume cannot be used.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.output_dir = Path(config.train.output_dir)
        self.state_path = self.output_dir / "state.pt"
        self.progress = Progress()
        self.stop_signal = 0
        self.messages: list[str] = []
        if config.train.precision == "bf16" and not has_bfloat16(device):
            self.messages.append("this CPU has no bfloat16: training in single precision")
            config = replace(config, train=replace(config.train, precision="fp32"))
        torch.manual_seed(config.train.seed)
        self.start = load_model(config.train.init_from) if config.train.init_from else None
        self.lexicon = self._find_lexicon()
        labels = self.lexicon.num_labels if self.lexicon else 0
        self.config = config = replace(config, model=replace(config.model, phone_labels=labels))
        check_start(self.start, config)
        model, self.features, self.tokenizer = build_model(config)
        self._load_data()
        if self.start and not config.train.resume:
            given, only = (model, self.features, self.tokenizer), config.train.init_only
            taken = take_weights(self.start, *given, only, self.lexicon)
            self.messages.append(taken)
        elif not config.train.resume:
            self.features.fit(self.source.waveforms(STATISTICS_UTTERANCES))
        if config.train.freeze:
            self.messages.append(freeze(model, config.train.freeze))
        self.model, self.features = model.to(device), self.features.to(device)
        self.texts = SpokenTexts.open(config, self.lexicon, self.tokenizer)
        self.splicer = self._make_splicer()
        decay = config.train.ema_decay
        self.average = AveragedModel(
            self.model,
            multi_avg_fn=lambda a, c, _: update_average(a, c, self.progress.step, decay),
        )
        self.optimizer = make_optimizer(self.model, config.train)
        self.skipped = torch.zeros((), device=device)  # since progress was last brought up to date
        if config.train.resume:
            self._restore()
        self.loss: nn.Module = self._loss_of_all_processes()
        self.probe = Probe(self.dev_set, config)

    def _make_splicer(self) -> Splicer | None:
        augment, files = self.config.augment, self.config.data.word_times
        if not augment.splice_probability:
            return None
        if not files:
            raise ValueError(
                f"augment.splice_probability: found {augment.splice_probability} without word "
                "times, wanted data.word_times, CTM files of scripts/align_manifests.py"
            )
        times, rate = read_word_times(files), self.config.features.sample_rate
        self.messages.append(f"words of {len(times)} utterances are put together anew")
        return Splicer(times, augment, self.tokenizer, rate)

    @cached_property
    def phone_trigram(self) -> Tensor | None:
        """What phones are trained against, counted in the training texts."""
        if self.config.train.phone_loss == "ctc" or not self.lexicon:
            return None
        spoken = (self.lexicon.encode(text) for text in self.source.texts(TRIGRAM_TEXTS))
        return label_trigram(spoken, self.lexicon.num_labels).to(self.device)

    def _loss_of_all_processes(self) -> nn.Module:
        loss = JointLoss(self.model, self.config.train, self.phone_trigram)
        if distributed.world_size() == 1:
            return loss
        # Looking for weights without gradients costs time: only where some have none.
        phones_wait = self.lexicon is not None and not self.config.train.phone_weight
        waits = phones_wait or not self.uses_decoder(self.progress.step)
        return DistributedDataParallel(loss, find_unused_parameters=waits)

    def _find_lexicon(self) -> Lexicon | None:
        """Return the lexicon that was named, else that of the model that the run starts from."""
        if self.config.data.lexicon:
            return Lexicon.open(self.config.data.lexicon)
        start, alphabet = self.start, self.config.data.alphabet
        return start.lexicon if start and start.tokenizer.alphabet == alphabet else None

    @property
    def averaged_model(self) -> SpeechModel:
        """The network with averaged weights, which is the one that is judged and shipped."""
        model = self.average.module
        assert isinstance(model, SpeechModel)
        return model

    def _load_data(self) -> None:
        data = self.config.data
        rate = self.config.features.sample_rate
        self.source = open_source(
            data.train_manifests, data, self.tokenizer, rate, self.config.train.seed,
            distributed.rank(), distributed.world_size(), pin=self.device.type == "cuda",
        )  # fmt: skip
        self.dev_set = load_dev_set(data, self.tokenizer, rate)

    def _restore(self) -> None:
        state, warning = load_state(self.state_path)
        if warning:
            self.messages.append(f"{warning}; going on from the state before")
        before = config_from_dict(state["config"])
        differences = network_differences(self.config, before)
        if before.data.alphabet != self.config.data.alphabet:
            differences.append(f"data.alphabet={before.data.alphabet!r}")
        if before.train.freeze != self.config.train.freeze:
            differences.append(f"train.freeze={list(before.train.freeze)}")
        if before.train.optimizer != self.config.train.optimizer:
            differences.append(f"train.optimizer={before.train.optimizer}")
        if differences:
            raise CheckpointError(
                f"{self.state_path}: is of other settings; wanted {' '.join(differences)}"
            )
        self.model.load_state_dict(state["model"])
        self.features.load_state_dict(state["features"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        progress = state["progress"]
        if "position" not in progress:  # of an older version: its epoch starts anew
            progress["position"] = asdict(Position(progress.pop("epoch")))
            del progress["batch"]
        progress["position"] = Position.from_dict(progress["position"])
        self.progress = Progress(**progress)
        if self.progress.best_wer < 0:  # of an older version, from a time without dev utterances
            self.progress.best_wer = float("inf")

    def save(self) -> None:
        """Write the training state, on the first process alone.

        Raises:
            OSError: It cannot be written; the state before is kept.
        """
        if distributed.is_main():
            state = {
                "model": self.model.state_dict(),
                "features": self.features.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.count_skipped()),
                "config": json.loads(json.dumps(config_to_dict(self.config))),
            }
            save_state(self.state_path, state)

    def count_skipped(self) -> Progress:
        """Bring the number of skipped updates up to date, which waits for a GPU."""
        self.progress.skipped += int(self.skipped)
        self.skipped.zero_()
        return self.progress

    def advance(self, batches: Iterator[tuple[Batch, Position]]) -> Update | None:
        """Take the next batch and make an update of it, unless a process wants to stop."""
        batch, position = next(batches)
        if self.splicer:
            step, seed = self.progress.step, self.config.train.seed
            chance = random.Random(f"{seed}/splice/{step}/{distributed.rank()}")
            batch = self.splicer(batch, chance)
        # On the CPU, before the batch moves: no GPU has to be waited for.
        characters, utterances, samples, stopping = distributed.total(
            [
                float(batch.token_lengths[batch.counts].sum()),
                float(batch.counts.sum()),
                float(batch.num_samples[batch.counts].sum()),
                float(self.stop_signal > 0),
            ]
        )
        if stopping:
            return None
        size = UpdateSize.of(characters, utterances, distributed.world_size())
        if self.lexicon:
            batch = batch.with_phones(self.lexicon, self.tokenizer)
        scalars = self.step(batch.to(self.device), size)
        self.progress.position = position
        audio_seconds = samples / self.config.features.sample_rate
        self.progress.audio_seconds += audio_seconds
        return Update(scalars, audio_seconds, batch.problems)

    def step(self, batch: Batch, size: UpdateSize) -> dict[str, Tensor]:
        """Make one update; return its losses and gradient norm as scalars on the device.

        Args:
            batch: This process's share of the update.
            size: Of the whole update.
        """
        config, step = self.config, self.progress.step
        # Chance depends on the step and nothing before it, so that resuming changes nothing.
        chance = random.Random(f"{config.train.seed}/{step}/{distributed.rank()}")
        torch.manual_seed(chance.getrandbits(60))
        if self.config.train.consistency_weight:
            batch, size = batch.twice(), UpdateSize(2 * size.characters, 2 * size.ends)
        features, lengths = augmented_features(
            self.features, batch.waveform, batch.num_samples, config.augment, config.features,
            chance,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.train)
        if self.uses_decoder(step) != self.uses_decoder(step - 1):
            self.loss = self._loss_of_all_processes()
        imagined = self._imagine(chance)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"
        ):
            losses = self.loss(
                features, lengths, batch.tokens, batch.token_lengths,
                self.uses_decoder(step), batch.counts, size, batch.phones, batch.phone_lengths,
                imagined,
            )  # fmt: skip
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.train.gradient_clip)
        # Several processes share gradients, so they all agree on whether these are finite.
        self.skipped += step_if_finite(self.optimizer, norm)
        self.average.update_parameters(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        scalars = {name: value.detach() for name, value in vars(losses).items()}
        return {**scalars, "gradient_norm": norm.detach()}

    def _imagine(self, chance: random.Random) -> Imagined | None:
        """Return texts as if heard, for a decoder that reads phones."""
        if not (self.texts and self.uses_decoder(self.progress.step)):
            return None
        return self.texts.draw(self.config.train.text_characters, chance).to(self.device)

    def uses_decoder(self, step: int) -> bool:
        """Tell whether the decoder is trained at a step."""
        return step >= self.config.train.ctc_only_steps and self.config.train.ctc_weight < 1

    def methods(self) -> list[SearchMethod]:
        """Return the ways of decoding that can be judged at this step."""
        if not self.uses_decoder(self.progress.step):
            return ["ctc"]
        return ["ctc", "greedy"] if self.config.train.ctc_weight > 0 else ["greedy"]

    def save_best(self, results: dict[str, Any]) -> None:
        """Write the averaged weights as the model directory if their WER is the lowest so far."""
        wers = {m: results[f"wer_{m}"] for m in self.methods() if f"wer_{m}" in results}
        if not len(self.dev_set):
            self.write_model("model", self.methods()[-1])  # nothing to judge by: the newest
        elif wers and min(wers.values()) <= self.progress.best_wer:
            method = min(wers, key=wers.__getitem__)
            self.write_model("model", method)
            self.progress.best_wer = wers[method]  # behind the writing, which a full disk stops

    def write_model(self, name: str, method: SearchMethod) -> None:
        """Write the averaged weights as a model directory, on the first process alone.

        The language model and the search of the model that the run started from go with it.
        """
        if not distributed.is_main():
            return
        search = replace(self.config.search, method=method)
        language_model = word_model = recurrent_model = None
        if self.start and self.start.tokenizer.alphabet == self.tokenizer.alphabet:
            language_model, word_model = self.start.language_model, self.start.word_model
            recurrent_model = self.start.recurrent_model
            if self.config.search == SearchConfig():
                search = self.start.config.search
        save_model(
            self.output_dir / name, self.averaged_model, self.features, self.tokenizer,
            replace(self.config, search=search), language_model=language_model,
            lexicon=self.lexicon, word_model=word_model, recurrent_model=recurrent_model,
        )  # fmt: skip

    def run(self) -> int:
        """Train to the last step, or until a signal; return the signal's number or 0.

        Raises:
            OSError: The last training state cannot be written.
        """
        train = self.config.train
        monitor = Monitor(
            self.output_dir, train.max_steps, self.progress.step, distributed.is_main()
        )
        batches = self.source.batches(self.progress.position)  # may have something to say
        messages = self.messages + self.source.messages
        for message in messages:
            monitor.message(message)
        monitor.record("start", self.progress.step, describe_start(self.model, messages))
        saved = noted = time.monotonic()
        audio_seconds = 0.0
        self.model.train()
        while self.progress.step < train.max_steps:
            update = self.advance(batches)
            if update is None:
                break
            for problem in update.problems:
                monitor.message(f"left out: {problem}", of_any_process=True)
            audio_seconds += update.audio_seconds
            step = self.progress.step
            if step % train.log_every == 0:
                now = time.monotonic()
                rate = audio_seconds / (now - noted)
                monitor.report("train", step, self._summary(update.scalars, rate))
                noted, audio_seconds = now, 0.0
            if step % train.validate_every == 0 or step == train.max_steps:
                self._validate(monitor)
                noted, audio_seconds = time.monotonic(), 0.0
            if time.monotonic() - saved > train.checkpoint_minutes * 60:
                self._try(self.save, monitor)
                saved = time.monotonic()
        self.save()
        if self.progress.step < train.max_steps:
            monitor.message(f"stopped at step {self.progress.step}; resume=true goes on from here")
        else:
            self.write_model("last", self.config.search.method)
        monitor.close()
        if distributed.is_main() and self.progress.step >= train.max_steps:
            self._try(lambda: monitor.message(str(write_run_report(self.output_dir))), monitor)
        return self.stop_signal

    def _validate(self, monitor: Monitor) -> None:
        results = validate(
            self.averaged_model, self.features, self.dev_set, self.methods(), self.device
        )
        step = self.progress.step
        for problem in results.pop("problems", ()):
            monitor.message(f"left out of the dev utterances: {problem}")
        monitor.report("dev", step, results)
        if monitor.enabled:
            decodes = self.uses_decoder(step)
            pictures = self.probe.draw(self.averaged_model, self.features, step, decodes)
            self._try(lambda: monitor.show(step, pictures), monitor)
        self._try(lambda: self.save_best(results), monitor)

    def _try(self, write: Callable[[], None], monitor: Monitor) -> None:
        """Write something that a later step writes again: a full disk must not end the run."""
        try:
            write()
        except (OSError, ValueError) as error:
            monitor.message(f"step {self.progress.step}: {error}; training goes on")

    def _summary(self, scalars: dict[str, Tensor], rate: float) -> dict[str, Any]:
        """Return what is logged of a step; averages over processes, so all must call it."""
        values = distributed.mean(torch.stack([v.float() for v in scalars.values()]))
        summary: dict[str, Any] = dict(zip(scalars, values.tolist(), strict=True))
        summary |= {"epoch": self.progress.position.epoch, "skipped": self.count_skipped().skipped}
        summary["learning_rate"] = learning_rate(self.progress.step - 1, self.config.train)
        summary["audio_hours_per_hour"] = rate
        summary["audio_hours"] = self.progress.audio_seconds / 3600
        return summary
