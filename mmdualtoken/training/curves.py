"""Curves of a training: losses, learning rate, metrics."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmdualtoken.training.history import Evaluations

MAX_POINTS = 2000  # of a curve; more would not be seen
MAX_CURVES = 8  # in a panel, so that the legend can be read
WINDOW = 50  # parts of the run over which the thick line is averaged


def _averaged(values: np.ndarray) -> np.ndarray:
    """Mean over a window that ends at each value: (n,) -> (n,)."""
    width = max(1, len(values) // WINDOW)
    sums = np.concatenate([[0.0], np.nancumsum(values)])
    counts = np.concatenate([[0.0], np.cumsum(~np.isnan(values))])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / np.maximum(counts[ends] - counts[starts], 1)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False)


def _losses(ax: Axes, scalars: Mapping[str, np.ndarray]) -> None:
    """The total loss with its noise behind it, its parts as thin lines."""
    names = sorted((n for n in scalars if "loss" in n), key=lambda n: (n != "loss", n))
    for name in names[:MAX_CURVES]:
        values = np.where(np.isfinite(scalars[name]), scalars[name], np.nan)
        shown = np.unique(np.linspace(0, len(values) - 1, MAX_POINTS).astype(int))
        total = name == names[0]
        (line,) = ax.plot(shown + 1, _averaged(values)[shown], lw=2 if total else 1, label=name)
        if total:
            ax.plot(shown + 1, values[shown], color=line.get_color(), alpha=0.25, lw=0.7)
    ax.set_title("loss, averaged over 1/50 of the run", fontsize=9)
    ax.set_xlabel("iteration", fontsize=8)
    if ax.get_ylim()[0] > 0:
        ax.set_ylim(bottom=0)
    _legend(ax)


def _metrics(ax: Axes, found: Evaluations) -> None:
    """The metrics of the evaluations, the main one thick and with its best value marked."""
    names = [n for n in found.metrics if not n.endswith(("time", "_75", "_s", "_m", "_l"))]
    for name in sorted(names, key=lambda name: name != found.main)[:MAX_CURVES]:
        values, main = found.metrics[name], name == found.main
        ax.plot(found.steps, values, "o-", lw=2 if main else 1, ms=4 if main else 2, label=name)
    title, unit = "evaluations", "epoch" if found.unit == "epoch" else "iteration"
    if found.main:
        step, value = found.steps[found.best], found.metrics[found.main][found.best]
        ax.plot(step, value, "*", ms=12, mfc="gold", mec="black", mew=0.8, zorder=3)
        title = f"best {found.main}: {value:.4g} at {unit} {step}"
    ax.set_xlim(left=0)  # the whole run, also around a single evaluation
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(unit, fontsize=8)
    _legend(ax)


def curves_figure(scalars: Mapping[str, np.ndarray], found: Evaluations) -> Figure:
    """Losses, learning rate and, once there are evaluations, metrics side by side.

    Args:
        scalars: name -> value in each iteration; losses have 'loss' in their names.
        found: the evaluations.
    """
    panels = 3 if found.metrics else 2
    figure = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels)
    _losses(axes[0], scalars)
    if found.metrics:
        _metrics(axes[1], found)
    rate = axes[-1]
    if "lr" in scalars:
        rate.plot(np.arange(1, len(scalars["lr"]) + 1), scalars["lr"], lw=1.5)
    rate.set_title("learning rate", fontsize=9)
    rate.set_xlabel("iteration", fontsize=8)
    rate.set_ylim(bottom=0)
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.3)
    return figure
