"""Time what training's speed rests on, beside the obvious alternatives, in one run.

    python scripts/bench_training.py --threads 1
    python scripts/bench_training.py --config recipes/librispeech/configs/cpu_19h.toml --batch 8
    python scripts/bench_training.py --device cuda --batch 64

Forward and backward passes of single parts on random input, medians of several rounds in which the
variants take turns:

- decoder: one teacher-forced pass over all characters, against a Python loop over them;
- recurrent layer: a forward and a length-reversed layer over padded sequences, as in the model,
  against PyTorch's bidirectional layer over packed sequences.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.config import Config, load_config
from asr.model import RECURRENT_CELLS, RecurrentLayer, SpeechModel

CHARS_PER_SECOND = 14  # of read books


def decoder_variants(
    config: Config, lengths: torch.Tensor, device: str
) -> dict[str, Callable[[], None]]:
    """Return the decoder's forward and backward pass, at once and character by character."""
    model = SpeechModel(config.model, config.features.num_mels, 31).to(device)
    features = torch.randn(len(lengths), int(lengths.max()), config.features.num_mels)
    seconds = int(lengths.max()) * config.features.shift_seconds
    tokens = torch.randint(3, 31, (len(lengths), int(seconds * CHARS_PER_SECOND)), device=device)
    with torch.no_grad():
        encoded = model.encode(features.to(device), lengths.to(device))

    def at_once() -> None:
        model.decoder(tokens, encoded)[0].square().mean().backward()

    def looped() -> None:
        state = model.decoder.start(encoded)
        steps = []
        for position in range(tokens.shape[1]):
            logits, _, state = model.decoder.advance(tokens[:, position : position + 1], state)
            steps.append(logits)
        torch.cat(steps, dim=1).square().mean().backward()

    return {"decoder, all characters at once": at_once, "decoder, Python loop": looped}


def layer_variants(
    config: Config, lengths: torch.Tensor, device: str
) -> dict[str, Callable[[], None]]:
    """Return one bidirectional layer's passes, padded as in the model and packed."""
    frames = lengths // 2 ** len(config.model.conv_channels)
    width = config.model.encoder_width
    x = torch.randn(len(frames), int(frames.max()), 2 * width, device=device, requires_grad=True)
    ours = RecurrentLayer(config.model, 2 * width).to(device)
    cell = RECURRENT_CELLS[config.model.encoder_cell]
    theirs: nn.RNNBase = cell(2 * width, width, batch_first=True, bidirectional=True).to(device)
    on_device = frames.to(device)

    def padded() -> None:
        ours(x, on_device)[0].square().mean().backward()

    def packed() -> None:
        sequence = pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
        output = pad_packed_sequence(theirs(sequence)[0], batch_first=True)[0]
        output.square().mean().backward()

    return {"layer, padded and reversed": padded, "layer, packed": packed}


def measure(variants: dict[str, Callable[[], None]], rounds: int, device: str) -> None:
    """Print the median time of each variant, and its ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            started = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first only warms up
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:34s} {1000 * median:9.1f} ms   {median / first:5.2f} x")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="TOML file (default: the defaults)")
    parser.add_argument("--batch", type=int, default=8, help="utterances (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of the longest one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = load_config(options.config)
    longest = int(options.seconds / config.features.shift_seconds)
    lengths = torch.linspace(0.7 * longest, longest, options.batch).long()
    print(
        f"batch {options.batch}, {options.seconds:g} s, {options.threads} threads, {options.device}"
    )
    for variants in (decoder_variants, layer_variants):
        measure(variants(config, lengths, options.device), options.rounds, options.device)


if __name__ == "__main__":
    main()
