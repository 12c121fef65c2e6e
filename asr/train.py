"""Train a recogniser from a configuration.

    python -m asr.train recipes/tiny/config.toml
    python -m asr.train config.toml train.max_steps=20000 model.encoder_width=512 device=cuda
    python -m asr.train config.toml resume=true                        # go on where it stopped
    torchrun --standalone --nproc-per-node=2 -m asr.train config.toml device=cpu threads=1

The run's folder (``train.output_dir``) gets ``model/``, the best model directory so far by WER on
the dev manifests (greedy CTC or attention); ``last/``, that of the last step; ``state.pt``, from
which ``resume=true`` continues exactly; ``log.jsonl``, ``tensorboard/`` and the resolved
``config.json``. Ctrl-C and SIGTERM save the state first.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from asr import distributed
from asr.augment import perturb_waveform, spec_augment
from asr.checkpoint import (
    CheckpointError,
    ModelBundle,
    build_model,
    load_model,
    load_state,
    save_model,
    save_state,
)
from asr.config import (
    Config,
    ConfigError,
    SearchConfig,
    SearchMethod,
    config_to_dict,
    load_config,
)
from asr.dataset import Batch, DurationBatches, SpeechDataset, load_utterances, make_loader
from asr.decode import decode_batch
from asr.loss import JointLoss
from asr.manifest import Utterance
from asr.model import SpeechModel
from asr.monitor import Monitor
from asr.optimize import learning_rate, make_optimizer, update_average
from asr.score import score_utterances

DROPOUTS = ("encoder_dropout", "decoder_dropout")  # may change when a run is resumed
STATISTICS_UTTERANCES = 200  # whose frames set the features' mean and deviation


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Updates done, skipped ones included.
        epoch: Passes over the data begun before this one.
        batch: Batches of this epoch that all processes together have taken.
        skipped: Updates left out because a loss or gradient was not finite.
        best_wer: Lowest WER on the dev utterances.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    skipped: int = 0
    best_wer: float = float("inf")


def pick_evenly(items: Sequence[Utterance], count: int) -> list[Utterance]:
    """Return ``count`` items at equal distances, all of them for 0."""
    if not count or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


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
        torch.manual_seed(config.train.seed)
        model, self.features, self.tokenizer = build_model(config)
        self._load_data()
        if config.train.init_from:
            self._take_weights(model, load_model(config.train.init_from))
        elif not config.train.resume:
            step = max(1, len(self.train_set) // STATISTICS_UTTERANCES)
            self.features.fit(
                [self.train_set.waveform(i) for i in range(0, len(self.train_set), step)]
            )
        self.model, self.features = model.to(device), self.features.to(device)
        decay = config.train.ema_decay
        self.average = AveragedModel(
            self.model, multi_avg_fn=lambda a, c, n: update_average(a, c, n, decay)
        )
        self.optimizer = make_optimizer(self.model, config.train)
        if config.train.resume:
            self._restore()
        self.loss: nn.Module = JointLoss(self.model, config.train)
        if distributed.world_size() > 1:
            ctc_only = not self.uses_decoder(self.progress.step)
            self.loss = DistributedDataParallel(self.loss, find_unused_parameters=ctc_only)

    def _take_weights(self, model: SpeechModel, start: ModelBundle) -> None:
        if (start.config.model, start.config.features) != (self.config.model, self.config.features):
            raise ValueError(
                f"train.init_from: {start.directory} has other [model] or [features] settings, "
                "wanted the same network"
            )
        if start.tokenizer.alphabet != self.tokenizer.alphabet:
            raise ValueError(
                f"train.init_from: {start.directory} has alphabet {start.tokenizer.alphabet!r}, "
                f"wanted {self.tokenizer.alphabet!r}"
            )
        model.load_state_dict(start.model.state_dict())
        self.features.load_state_dict(start.features.state_dict())

    @property
    def averaged_model(self) -> SpeechModel:
        """The network with averaged weights, which is the one that is judged and shipped."""
        model = self.average.module
        assert isinstance(model, SpeechModel)
        return model

    def _load_data(self) -> None:
        data = self.config.data
        utterances, left_out = load_utterances(data.train_manifests, data)
        hours = sum(u.duration for u in utterances) / 3600
        self.messages.append(f"training on {len(utterances)} utterances, {hours:.2f} h")
        self.messages += [f"left out: {n} utterances {why}" for why, n in left_out.items()]
        rate = self.config.features.sample_rate
        self.train_set = SpeechDataset(utterances, self.tokenizer, rate, data.cache_dir)
        dev: list[Utterance] = []
        if data.dev_manifests:
            every = replace(data, max_seconds=float("inf"))
            dev = load_utterances(data.dev_manifests, every)[0]
            dev = pick_evenly(dev, data.dev_utterances)
        self.dev_set = SpeechDataset(dev, self.tokenizer, rate, data.cache_dir)
        self.order = DurationBatches(
            [u.duration for u in utterances], data.batch_seconds, data.max_batch_size,
            self.config.train.seed, data.short_first,
        )  # fmt: skip

    def _restore(self) -> None:
        state, warning = load_state(self.state_path)
        if warning:
            self.messages.append(f"{warning}; going on from the state before")
        now = json.loads(json.dumps(config_to_dict(self.config)))
        for section in ("features", "model"):
            for name, value in now[section].items():
                before = state["config"][section].get(name)
                if before != value and name not in DROPOUTS:
                    raise CheckpointError(
                        f"{self.state_path}: was trained with {section}.{name}={before}, "
                        f"found {value}"
                    )
        self.model.load_state_dict(state["model"])
        self.features.load_state_dict(state["features"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the training state, on the first process alone."""
        if distributed.is_main():
            state = {
                "model": self.model.state_dict(),
                "features": self.features.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.progress),
                "config": json.loads(json.dumps(config_to_dict(self.config))),
            }
            save_state(self.state_path, state)

    def batches(self) -> Iterator[Batch]:
        """Yield this process's batches from where the run stands, epoch after epoch."""
        rank, world = distributed.rank(), distributed.world_size()
        pin = self.device.type == "cuda"
        while True:
            order = self.order.epoch(self.progress.epoch)
            rounds = max(1, len(order) // world)  # the same number of steps for every process
            first = self.progress.batch // world
            mine = [order[(i * world + rank) % len(order)] for i in range(first, rounds)]
            for batch in make_loader(self.train_set, mine, self.config.data.num_workers, pin):
                self.progress.batch += world
                yield batch.to(self.device)
            self.progress.epoch += 1
            self.progress.batch = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Make one update; return its losses and gradient norm as scalars on the device."""
        config, step = self.config, self.progress.step
        # Chance depends on the step and nothing before it, so that resuming changes nothing.
        chance = random.Random(f"{config.train.seed}/{step}/{distributed.rank()}")
        torch.manual_seed(chance.getrandbits(60))
        waveform, num_samples = perturb_waveform(
            batch.waveform, batch.num_samples, config.augment, chance
        )
        features, lengths = self.features(waveform, num_samples)
        frame_rate = 1 / config.features.shift_seconds
        features = spec_augment(features, lengths, config.augment, chance, frame_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.train)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"
        ):
            losses = self.loss(
                features, lengths, batch.tokens, batch.token_lengths, self.uses_decoder(step)
            )
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.train.gradient_clip)
        if torch.isfinite(norm):  # several processes share gradients, so they all agree
            self.optimizer.step()
            self.average.update_parameters(self.model)
        else:
            self.progress.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        scalars = {name: value.detach() for name, value in vars(losses).items()}
        return {**scalars, "gradient_norm": norm.detach()}

    def uses_decoder(self, step: int) -> bool:
        """Tell whether the decoder is trained at a step."""
        return step >= self.config.train.ctc_only_steps and self.config.train.ctc_weight < 1

    def validate(self) -> dict[str, Any]:
        """Decode the dev utterances with the averaged weights: WER, CER and examples."""
        model = self.averaged_model
        methods: list[SearchMethod] = ["ctc"] if self.config.train.ctc_weight > 0 else []
        if self.uses_decoder(self.progress.step):
            methods.append("greedy")
        utterances = self.dev_set.utterances
        order = DurationBatches([u.duration for u in utterances], 240.0, 64, seed=0).epoch(0)
        mine = order[distributed.rank() :: distributed.world_size()]
        results: dict[str, Any] = {}
        for method in methods:
            search = replace(SearchConfig(), method=method)
            texts: dict[int, str] = {}
            for batch in make_loader(self.dev_set, mine, 0, pin=False):
                batch = batch.to(self.device)
                found = decode_batch(
                    model, self.features, self.tokenizer, batch.waveform, batch.num_samples, search
                )
                texts.update(zip(batch.indices, (heard.text for heard in found), strict=True))
            for part in distributed.gather(texts):
                texts.update(part)
            # Files that could not be read are left out, and missed in the count of utterances.
            triples = [(str(i), utterances[i].text, text) for i, text in sorted(texts.items())]
            score = score_utterances(triples)
            results |= {f"wer_{method}": score.wer, f"cer_{method}": score.cer}
            results["utterances"] = len(triples)
            results[f"examples_{method}"] = [list(t) for t in triples[:: max(1, len(triples) // 5)]]
        return results

    def save_best(self, results: dict[str, Any]) -> None:
        """Write the averaged weights as the model directory if their WER is the lowest so far."""
        wers = {name: value for name, value in results.items() if name.startswith("wer_")}
        wer = min(wers.values(), default=float("-inf"))
        if wer > self.progress.best_wer:
            return
        self.progress.best_wer = wer
        self.write_model("model", "greedy" if wers.get("wer_greedy") == wer else "ctc")

    def write_model(self, name: str, method: SearchMethod) -> None:
        """Write the averaged weights as a model directory, on the first process alone."""
        if distributed.is_main():
            config = replace(self.config, search=replace(self.config.search, method=method))
            folder = self.output_dir / name
            save_model(folder, self.averaged_model, self.features, self.tokenizer, config)

    def run(self) -> int:
        """Train to the last step, or until a signal; return the signal's number or 0."""
        train = self.config.train
        monitor = Monitor(
            self.output_dir, train.max_steps, self.progress.step, distributed.is_main()
        )
        for message in self.messages:
            monitor.message(message)
        saved = noted = time.monotonic()
        audio_seconds = 0.0
        self.model.train()
        batches = self.batches()
        while self.progress.step < train.max_steps:
            batch = next(batches)
            for problem in batch.problems:
                monitor.message(f"left out: {problem}")
            audio_seconds += float(batch.num_samples.sum()) / self.config.features.sample_rate
            scalars = self.step(batch)
            step = self.progress.step
            if step % train.log_every == 0:
                now = time.monotonic()
                rate = audio_seconds * distributed.world_size() / (now - noted)
                monitor.report("train", step, self._summary(scalars, rate))
                noted, audio_seconds = now, 0.0
            if step % train.validate_every == 0 or step == train.max_steps:
                results = self.validate() if len(self.dev_set) else {}
                monitor.report("dev", step, results)
                self.save_best(results)
                noted, audio_seconds = time.monotonic(), 0.0
            if distributed.any_process(bool(self.stop_signal), self.device):
                break
            if time.monotonic() - saved > train.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.progress.step < train.max_steps:
            monitor.message(f"stopped at step {self.progress.step}; resume=true goes on from here")
        else:
            self.write_model("last", self.config.search.method)
        monitor.close()
        return self.stop_signal

    def _summary(self, scalars: dict[str, Tensor], rate: float) -> dict[str, Any]:
        """Return what is logged of a step; averages over processes, so all must call it."""
        values = distributed.mean(torch.stack([v.float() for v in scalars.values()]))
        summary: dict[str, Any] = dict(zip(scalars, values.tolist(), strict=True))
        summary |= {"epoch": self.progress.epoch, "skipped": self.progress.skipped}
        summary["learning_rate"] = learning_rate(self.progress.step - 1, self.config.train)
        summary["audio_hours_per_hour"] = rate
        return summary


def train(config: Config) -> int:
    """Train as configured.

    Returns:
        0, or the number of the signal that stopped the run.

    Raises:
        ValueError: Something the user gave cannot be used; the message says what.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = distributed.start(config.train.device)
    try:
        output_dir = Path(config.train.output_dir)
        if not config.train.resume and (output_dir / "state.pt").exists():
            raise ValueError(
                f"{output_dir}: found a training state; resume=true goes on from it, "
                "or choose another train.output_dir"
            )
        trainer = Trainer(config, device)
        if distributed.is_main():
            output_dir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config_to_dict(config), indent=1) + "\n"
            (output_dir / "config.json").write_text(text, encoding="utf-8")
        with stopped_by_signals(trainer):
            stopped_by = trainer.run()
        # Nobody leaves while another still writes or reduces, and nothing may hold on to the
        # process group after it is gone: its threads would end the process with an abort.
        distributed.wait_for_all()
        del trainer
        return stopped_by
    finally:
        distributed.stop()


@contextmanager
def stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run behind its current step; a second one ends at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        trainer.stop_signal = number
        signal.signal(number, signal.SIG_DFL)

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m asr.train", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("config", help="TOML file with what differs from the defaults")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that override it"
    )
    options = parser.parse_args(arguments)
    try:
        stopped_by = train(load_config(options.config, options.overrides))
    except (ValueError, ConfigError, CheckpointError) as error:
        print(f"asr.train: {error}", file=sys.stderr)
        return 2
    return 128 + stopped_by if stopped_by else 0


if __name__ == "__main__":
    sys.exit(main())
