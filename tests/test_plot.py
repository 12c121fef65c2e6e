"""Pictures: what they show is what they were given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchaudio.functional import melscale_fbanks

from asr import plot
from asr.plot import Curve

pytest.importorskip("matplotlib", reason="needs matplotlib")


def test_importing_is_cheap() -> None:
    program = "import sys, asr.plot; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plot.available()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not plot.available()


def test_smoothing_is_the_mean_of_a_window_and_keeps_gaps() -> None:
    values = np.random.default_rng(0).normal(size=200)
    values[[0, 50, 51, 199]] = np.nan
    smoothed = plot.smooth(values)
    for index, value in enumerate(values):
        window = values[max(0, index - 3) : index + 4]
        expected = np.nan if np.isnan(value) else np.nanmean(window)
        assert smoothed[index] == pytest.approx(expected, nan_ok=True)


def test_curves() -> None:
    steps = [100, 200, 300]
    curves = [
        Curve("ctc", steps, [90.0, 50.0, 40.0], [85.0, 45.0, 35.0], [95.0, 55.0, 45.0]),
        Curve("attention", steps[1:], [float("inf"), 30.0]),
    ]
    figure = plot.plot_curves(
        curves, "WER", "%", mark_lowest=True, top=80.0, events={"joins": 150}, limits={"limit": 1}
    )
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_label() == "attention")
    assert list(line.get_xdata()) == [200, 300]
    assert np.isnan(line.get_ydata()[0]) and line.get_ydata()[1] == 30.0
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == (35.0, 95.0)
    assert axes.get_ylim()[1] == 80.0 and axes.get_ylabel() == "%"
    assert {text.get_text() for text in axes.texts} == {"joins", "limit", "30.0"}
    assert plot.to_png(figure).startswith(b"\x89PNG")


def test_a_curve_of_one_point_on_a_logarithmic_axis() -> None:
    figure = plot.plot_curves([Curve("norm", [1], [0.3])], "t", "u", noisy=True, log_scale=True)
    assert figure.axes[0].get_yscale() == "log"
    assert plot.to_png(figure).startswith(b"\x89PNG")


def test_attention_has_characters_on_one_axis_and_seconds_on_the_other() -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(5), size=4)  # (U, S)
    figure = plot.plot_attention(weights, ["a", " ", "b", "end"], 0.08, "title")
    axes = figure.axes[0]
    (image,) = axes.images
    assert np.array_equal(image.get_array(), weights)
    assert image.get_extent() == pytest.approx([0, 0.4, 3.5, -0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "·", "b", "end"]


@pytest.mark.filterwarnings("error")
def test_letters_that_the_font_lacks_or_that_mean_formulas_elsewhere() -> None:
    figure = plot.plot_attention(np.eye(4), ["语", "$", "^", "_"], 0.08, r"$\nonsense{$ 语")
    assert plot.to_png(figure).startswith(b"\x89PNG")


def test_spectrograms_share_their_scales_and_show_masks() -> None:
    first = np.random.default_rng(0).normal(size=(50, 20))
    second = np.random.default_rng(1).normal(size=(60, 20))
    second[10:20] = 0.0
    figure = plot.plot_spectrograms([("before", first), ("after", second)], 0.01, (20.0, 8000.0))
    before, after = (axes.images[0] for axes in figure.axes[:2])
    assert before.get_clim() == after.get_clim()
    assert figure.axes[0].get_xlim() == pytest.approx((0, 0.6))
    assert np.ma.getmaskarray(after.get_array())[:, 10:20].all()
    assert np.ma.getmaskarray(after.get_array()).sum() == 200


@pytest.mark.parametrize("frequency", [250.0, 1000.0, 4000.0])
def test_frequencies_stand_at_their_bands(frequency: float) -> None:
    filters = melscale_fbanks(2049, 20.0, 8000.0, 80, 16000, norm=None, mel_scale="htk")
    nearest = int(torch.linspace(0, 8000, 2049).sub(frequency).abs().argmin())
    weights = filters[nearest]
    # Bands are triangles whose neighbours overlap: the mean of their centres is the frequency.
    centre = float((weights * (torch.arange(80) + 1)).sum() / weights.sum())
    found = plot._mel_band(frequency, (20.0, 8000.0), 80)
    assert found * 81 / 80 == pytest.approx(centre, abs=0.1)
