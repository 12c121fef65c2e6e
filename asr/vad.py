"""How likely each moment of a recording holds speech: Silero's detector, for streams.

The network and its weights are those of the package silero-vad (MIT licence, version 6), whose own
model hears one frame at a time and whose import sets the number of threads of the whole process.
Here the convolutions hear all frames of a block at once, and one LSTM call runs over them: the
same probabilities, many times faster.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

FRAME = 512  # samples for each speech probability: 32 ms at 16 kHz
_CONTEXT = 64  # samples before a frame that are heard with it
_WEIGHTS = Path("data", "silero_vad.jit")
_NAMES = {  # theirs: ours
    "stft.forward_basis_buffer": "stft_conv.weight",
    **{
        f"encoder.{index}.reparam_conv.{kind}": f"conv{index + 1}.{kind}"
        for index in range(4)
        for kind in ("weight", "bias")
    },
    **{
        f"decoder.rnn.{kind}_{side}": f"lstm.{kind}_{side}_l0"
        for kind in ("weight", "bias")
        for side in ("ih", "hh")
    },
    "decoder.decoder.2.weight": "final_conv.weight",
    "decoder.decoder.2.bias": "final_conv.bias",
}


class DetectorState(NamedTuple):
    """What the detector remembers between blocks: (1, 64) samples, (1, 1, 128), (1, 1, 128)."""

    context: Tensor
    hidden: Tensor
    cell: Tensor


class SpeechDetector(nn.Module):
    """Silero VAD at 16 kHz."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def initial_state(self) -> DetectorState:
        """Return the state before a recording: silence."""
        zeros = torch.zeros(1, 1, 128)
        return DetectorState(torch.zeros(1, _CONTEXT), zeros, zeros)

    @torch.inference_mode()
    def forward(self, waveform: Tensor, state: DetectorState) -> tuple[Tensor, DetectorState]:
        """Hear a block.

        Args:
            waveform: (N,) at 16 kHz in -1..1; N is a multiple of 512.
            state: Of the blocks before.

        Returns:
            (N / 512,) probabilities, and the state for the next block.
        """
        heard = torch.cat([state.context, waveform[None]], dim=1)
        frames = heard.unfold(1, _CONTEXT + FRAME, FRAME)[0]  # (T, 576)
        frames = nn.functional.pad(frames, (0, _CONTEXT), mode="reflect")
        real, imaginary = self.stft_conv(frames[:, None]).chunk(2, dim=1)  # (T, 129, 4) each
        x = (real.square() + imaginary.square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()  # (T, 128, 1) in the end
        x, (hidden, cell) = self.lstm(x[None, :, :, 0], (state.hidden, state.cell))  # (1, T, 128)
        x = self.final_conv(x.relu().transpose(1, 2)).sigmoid()  # (1, 1, T)
        return x[0, 0], DetectorState(heard[:, -_CONTEXT:], hidden, cell)


@cache
def load_detector() -> SpeechDetector:
    """Return the detector with the weights of the installed silero-vad."""
    # Looked for, not imported: that would change the number of threads.
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / _WEIGHTS
    weights = torch.jit.load(path, map_location="cpu")._model.state_dict()
    detector = SpeechDetector()
    detector.load_state_dict({_NAMES[name]: tensor for name, tensor in weights.items()})
    return detector.eval()
