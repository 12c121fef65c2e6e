"""Pictures of a training run as matplotlib figures: curves, attention, spectrograms.

matplotlib is an extra, imported when the first picture is drawn; ask `available` before.
"""

from __future__ import annotations

import importlib.util
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = "no pictures: matplotlib is not installed (extra 'train')"
# Okabe and Ito, "Color universal design", 2008: told apart also by the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.grid": True, "grid.color": "#e5e5e5", "grid.linewidth": 0.8, "axes.axisbelow": True,
    "xtick.color": "#444444", "ytick.color": "#444444", "legend.frameon": False,
    "text.parse_math": False, "figure.facecolor": "white", "figure.constrained_layout.use": True,
}  # fmt: skip
WIDTH = 7.2  # inches
MARKED_POINTS = 40  # curves with more points than this are drawn without dots
NAMES = {" ": "·"}  # of characters that an axis cannot show

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Curve:
    """One line of a picture.

    Attributes:
        label: What it is.
        steps: Where it was measured.
        values: What was measured there; what is not finite leaves a gap.
        low: Lower ends of intervals; empty for none.
        high: Upper ends of intervals; empty for none.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def available() -> bool:
    """Tell whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of an alphabet that the font lacks: a box
        figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def plot_curves(
    curves: Sequence[Curve],
    title: str,
    unit: str,
    *,
    noisy: bool = False,
    log_scale: bool = False,
    mark_lowest: bool = False,
    top: float = math.inf,
    events: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Draw values over steps.

    Args:
        curves: Each in a colour of its own; those with intervals get a band.
        title: Of the picture.
        unit: What the vertical axis shows.
        noisy: Draw the values pale, and their running mean over them.
        log_scale: Draw the vertical axis logarithmically.
        mark_lowest: Mark the lowest value of all curves and write it beside.
        top: The vertical axis ends here, even where values are higher.
        events: Steps at which something happened, by what it was.
        limits: Values that mean something, by what they mean.
    """
    import matplotlib
    from matplotlib.figure import Figure as NewFigure
    from matplotlib.ticker import EngFormatter

    with matplotlib.rc_context(STYLE):
        figure = NewFigure(figsize=(WIDTH, 3.0))
        axes = figure.add_subplot()
        axes.margins(y=0.1)
        for curve, colour in zip(curves, COLOURS, strict=False):
            _draw_curve(axes, curve, colour, noisy)
        if log_scale:
            _scale_by_logarithm(axes)
        if axes.get_ylim()[1] > top:
            axes.set_ylim(top=top)
        axes.set_xlim(left=0, right=max(max(curve.steps) for curve in curves) * 1.02)
        _draw_marks(axes, events or {}, limits or {})
        if mark_lowest:
            _mark_lowest(axes, curves)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if len(curves) > 1:
            figure.legend(loc="outside lower center", ncols=len(curves))
    return figure


def _draw_curve(axes: Axes, curve: Curve, colour: str, noisy: bool) -> None:
    steps = np.asarray(curve.steps, dtype=float)
    values = np.asarray(curve.values, dtype=float)
    values[~np.isfinite(values)] = np.nan
    line: Any = {"color": colour, "linewidth": 1.6, "label": curve.label}
    if curve.low:
        low, high = (np.asarray(end, dtype=float) for end in (curve.low, curve.high))
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    if noisy:
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(values), **line)
    else:
        marker = "o" if len(values) <= MARKED_POINTS else ""
        axes.plot(steps, values, marker=marker, markersize=3, **line)


def _scale_by_logarithm(axes: Axes) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def smooth(values: FloatArray) -> FloatArray:
    """Return the running mean (N,) over a thirtieth of N values; gaps stay gaps."""
    width = max(1, len(values) // 30) | 1  # odd, so that it has a middle
    window = np.ones(width)
    real = np.isfinite(values)
    total = np.convolve(np.where(real, values, 0.0), window, mode="same")
    count = np.convolve(real.astype(float), window, mode="same")
    means: FloatArray = np.where(real, total / np.maximum(count, 1), np.nan)
    return means


def _draw_marks(axes: Axes, events: Mapping[str, float], limits: Mapping[str, float]) -> None:
    """Draw events as vertical and limits as horizontal dashed lines, with their names."""
    style: Any = {"color": "#777777", "linewidth": 0.9, "linestyle": (0, (4, 3))}
    text: Any = {"color": "#555555", "fontsize": 8, "textcoords": "offset points"}
    for name, step in events.items():
        axes.axvline(step, **style)
        axes.annotate(name, (step, 0), xycoords=("data", "axes fraction"), xytext=(3, 3), **text)
    for name, value in limits.items():
        axes.axhline(value, **style)
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), xytext=(0, -2),
                      ha="right", va="top", **text)  # fmt: skip


def _mark_lowest(axes: Axes, curves: Sequence[Curve]) -> None:
    points = [
        (value, step, colour)
        for curve, colour in zip(curves, COLOURS, strict=False)
        for step, value in zip(curve.steps, curve.values, strict=True)
        if math.isfinite(value)
    ]
    if points:
        value, step, colour = min(points)
        axes.plot([step], [value], marker="o", markersize=7, color=colour, fillstyle="none")
        axes.annotate(f"{value:.1f}", (step, value), xytext=(0, -7), textcoords="offset points",
                      color=colour, ha="center", va="top", fontweight="bold")  # fmt: skip


def plot_attention(
    weights: FloatArray, characters: Sequence[str], frame_seconds: float, title: str
) -> Figure:
    """Draw where each character's attention lies.

    Args:
        weights: (U, S), each row sums to 1.
        characters: U names of the rows, from top to bottom.
        frame_seconds: Time from one column to the next.
        title: Of the picture.
    """
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    rows, columns = weights.shape
    assert rows == len(characters)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = NewFigure(figsize=(WIDTH, max(2.4, 0.9 + 0.105 * rows)))
        axes = figure.add_subplot()
        extent = (0, columns * frame_seconds, rows - 0.5, -0.5)
        image = axes.imshow(
            weights, aspect="auto", interpolation="nearest", cmap="Blues", extent=extent, vmin=0
        )
        axes.set_yticks(range(rows), [NAMES.get(c, c) for c in characters], fontsize=7)
        axes.tick_params(axis="y", length=0, pad=2)
        axes.set_title(title)
        axes.set_xlabel("time (s)")
        axes.set_ylabel("character")
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
        bar.set_label("attention weight")
        bar.outline.set_visible(False)
    return figure


def plot_spectrograms(
    panels: Sequence[tuple[str, FloatArray]],
    frame_seconds: float,
    frequencies: tuple[float, float],
) -> Figure:
    """Draw log-mel features below one another, on the same scales.

    Args:
        panels: Title and features (T, F) of each; what is exactly 0, hence masked, is grey.
        frame_seconds: Time from one frame to the next.
        frequencies: Lower and upper end of the mel bands in Hz.
    """
    import matplotlib
    from matplotlib.figure import Figure as NewFigure

    low, high = np.percentile(np.concatenate([f.ravel() for _, f in panels]), [1, 99.5])
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = NewFigure(figsize=(WIDTH, 1.7 * len(panels) + 0.3))
        colours = matplotlib.colormaps["magma"].with_extremes(bad="#bbbbbb")
        grid: Any = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for axes, (title, features) in zip(grid[:, 0], panels, strict=True):
            frames, bands = features.shape
            image = axes.imshow(
                np.ma.masked_equal(features.T, 0), aspect="auto", origin="lower", cmap=colours,
                vmin=low, vmax=high, extent=(0, frames * frame_seconds, 0, bands),
            )  # fmt: skip
            hertz = [f for f in (250, 500, 1000, 2000, 4000, 8000) if f <= frequencies[1]]
            axes.set_yticks([_mel_band(f, frequencies, bands) for f in hertz],
                            [f"{f / 1000:g}" for f in hertz])  # fmt: skip
            axes.set_title(title)
            axes.set_ylabel("frequency (kHz)")
        longest = max(features.shape[0] for _, features in panels)
        grid[0, 0].set_xlim(0, longest * frame_seconds)
        grid[-1, 0].set_xlabel("time (s)")
        bar = figure.colorbar(image, ax=list(grid[:, 0]), pad=0.01, aspect=30)
        bar.set_label("log-mel energy (standard deviations)")
        bar.outline.set_visible(False)
    return figure


def _mel_band(frequency: float, frequencies: tuple[float, float], bands: int) -> float:
    """Return at which of the bands a frequency in Hz lies, on the scale of `asr.features`."""
    low, here, high = (math.log10(1 + f / 700) for f in (frequencies[0], frequency, frequencies[1]))
    return bands * (here - low) / (high - low)
