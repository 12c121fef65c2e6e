"""Pictures of transcripts: what was heard, where the network looked, how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from asr.features import LogMel
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer
from asr.transcript import Segment, Transcript

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from asr.segment import Waveform

MAX_SEGMENTS = 8  # of a picture
_INCHES_PER_SECOND, _MIN_INCHES, _MAX_INCHES = 1.05, 9.0, 34.0
_HEIGHTS = (1.5, 0.62, 2.0)  # log-mel, words, attention; inches
_UNSURE, _MIDDLE, _SURE = "#c8435a", "#e9b44c", "#2f8f83"  # confidence 0, a half, 1
_INK, _FAINT = "#2b2f36", "#8a919c"


class PlotError(ValueError):
    """A picture cannot be drawn."""


def plot_transcript(
    path: str | Path,
    pieces: Sequence[tuple[Segment, Waveform]],
    transcript: Transcript,
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    *,
    title: str = "",
) -> None:
    """Draw the first pieces of a recording, one below the other, whole or not at all.

    They are the ones that were recognised, so that neither is the recording read again nor kept in
    memory, however long it is; the title says which part of it is drawn. Of each piece, the log-mel
    spectrogram; its words at their times, with their confidence as colour; and where the decoder
    looks for each character (a row, from the first above to the last).

    Args:
        path: File to write; its suffix says what: png, svg, pdf.
        pieces: The first segments that have words, at most `MAX_SEGMENTS` of them, each with its
            own sound (N,) at the features' sample rate, in -1..1.
        transcript: Of the whole recording.
        model: The network.
        features: Its features.
        tokenizer: Its characters.
        title: Stands above all.

    Raises:
        PlotError: Matplotlib is missing, nothing was said, or the suffix is none that it knows.
        OSError: The file cannot be written.
    """
    figure_class = check_picture(path)
    suffix = Path(path).suffix.lstrip(".").lower()
    shown = [piece for piece in pieces if piece[0].words][:MAX_SEGMENTS]
    if not shown:
        raise PlotError(f"{path}: found no words in the transcript, wanted some to draw")
    longest = max(segment.end - segment.start for segment, _ in shown)
    width = min(max(_INCHES_PER_SECOND * longest, _MIN_INCHES), _MAX_INCHES)
    height = (sum(_HEIGHTS) + 0.75) * len(shown) + 0.6
    figure = figure_class((width, height), layout="constrained")
    title = ", ".join(filter(None, (title, what_is_drawn(len(shown), shown[-1][0], transcript))))
    if title:
        figure.suptitle(title, fontsize=12, color=_INK, x=0.01, ha="left")
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (segment, waveform) in zip(parts, shown, strict=True):
        piece = torch.as_tensor(waveform)
        _draw_segment(part, segment, piece, model, features, tokenizer, longest)
    temporary = Path(path).with_name(f".{Path(path).name[:200]}.tmp")
    try:
        figure.savefig(temporary, format=suffix, dpi=110, facecolor="white")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def what_is_drawn(count: int, last: Segment, transcript: Transcript) -> str:
    """Say which part of a recording the first `count` pieces are; nothing where they are all."""
    pieces = sum(bool(segment.words) for segment in transcript.segments)
    if count >= pieces:
        return ""
    return (
        f"the first {count} of {pieces} pieces of speech, "
        f"to {_clock(last.end)} of {_clock(transcript.duration)}"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def check_picture(path: str | Path) -> type[Figure]:
    """Make sure that a picture can be drawn there; return the class of figures.

    Raises:
        PlotError: Matplotlib is missing, the suffix is none that it knows, or there is no such
            folder.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError(
            "pictures: found no matplotlib; pip install 'asr[plot]' brings it"
        ) from error
    suffix = Path(path).suffix.lstrip(".").lower()
    if suffix not in FigureCanvasAgg.filetypes:
        raise PlotError(f"{path}: found suffix {suffix!r}, wanted png, svg or pdf")
    if not Path(path).parent.is_dir():
        raise PlotError(f"{path}: found no folder {Path(path).parent}, wanted one to write to")
    return Figure


@torch.inference_mode()
def _draw_segment(
    part: Any,
    segment: Segment,
    piece: Tensor,
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    seconds: float,
) -> None:
    """Draw one piece into a part of the figure that is `seconds` wide."""
    device = features.mean.device
    samples, count = piece[None].float().to(device), torch.tensor([len(piece)], device=device)
    mel = features.log_mel(samples)[0].cpu()  # (T, F)
    text = " ".join(word.text for word in segment.words)
    given = torch.tensor([[tokenizer.sos_id, *tokenizer.encode(text)]], device=device)
    weights = model.decoder(given, model.encode(*features(samples, count)))[1][0, :-1].cpu()
    above, words, below = part.subplots(3, 1, sharex=True, height_ratios=_HEIGHTS)
    left, right = segment.start, segment.start + len(piece) / features.config.sample_rate
    low, high = torch.quantile(mel, torch.tensor([0.05, 0.997])).tolist()
    above.imshow(
        mel.T.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
        extent=(left, right, 0, mel.shape[1]), interpolation="bilinear",
    )  # fmt: skip
    above.set_ylabel("mel band", color=_FAINT)
    _draw_words(words, segment)
    _draw_attention(below, weights, text, (left, right))
    for axes in (above, words, below):
        axes.set_xlim(segment.start, segment.start + seconds)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=_FAINT, labelsize=8)
        for word in segment.words:
            axes.axvline(word.start, color=_FAINT, linewidth=0.4, alpha=0.35, zorder=0.5)
    below.set_xlabel("seconds", color=_FAINT)


def _draw_words(axes: Axes, segment: Segment) -> None:
    """Draw each word as a box from its start to its end, coloured by its confidence."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import FancyBboxPatch

    colours = LinearSegmentedColormap.from_list("confidence", [_UNSURE, _MIDDLE, _SURE])
    for word in segment.words:
        colour = colours(word.confidence)
        axes.add_patch(
            FancyBboxPatch(
                (word.start, 0.34), word.end - word.start, 0.52, boxstyle="square,pad=0",
                facecolor=(*colour[:3], 0.28), edgecolor="white", linewidth=0.8,
            )
        )  # fmt: skip
        room = 72 * _INCHES_PER_SECOND * (word.end - word.start)  # points
        size = min(10.0, max(6.0, room / (0.56 * len(word.text))))
        middle = (word.start + word.end) / 2
        axes.text(middle, 0.6, word.text, ha="center", va="center", fontsize=size, color=_INK)
        axes.text(
            middle, 0.16, f"{100 * word.confidence:.0f}", ha="center", va="center", fontsize=6.5,
            color=colour,
        )  # fmt: skip
    axes.set(ylim=(0, 1), yticks=[])
    axes.set_ylabel("words,\n% sure", color=_FAINT)


def _draw_attention(axes: Axes, weights: Tensor, text: str, place: tuple[float, float]) -> None:
    """Draw attention weights (U, S) of the characters of a text over the time of a piece."""
    if weights.shape[1] == 0:  # a model without attention
        axes.text(0.5, 0.5, "no attention", transform=axes.transAxes, ha="center", color=_FAINT)
    else:
        largest = weights.amax(1, keepdim=True).clamp(min=1e-6)
        axes.imshow(
            (weights / largest).sqrt().numpy(), aspect="auto", cmap="bone_r", vmin=0, vmax=1,
            extent=(*place, len(text), 0), interpolation="nearest",
        )  # fmt: skip
    starts = [0, *(n + 1 for n, character in enumerate(text) if character == " ")]
    axes.set_yticks([start + 0.5 for start in starts], [])
    axes.set_ylabel("attention,\na row a character", color=_FAINT)
    axes.set_ylim(len(text), 0)
