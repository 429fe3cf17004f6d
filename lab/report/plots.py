"""Plots of a table: accuracy against FLOPs, and how the runs converged."""

import base64
import io
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.report.collect import RowReport, TableReport
from lab.report.schema import Metric

SIZE = (9, 3.6)  # inches
_PAIRS = matplotlib.colormaps["tab20"].colors
COLOURS = _PAIRS[::2] + _PAIRS[1::2]  # neighbours of different hue


@dataclass(frozen=True)
class Plot:
    """A picture as the source of an <img>, and a sentence on what it shows."""

    source: str
    caption: str


def _picture(figure: Figure) -> str:
    """A figure as an SVG data URL; equal figures give equal text."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mmdualtoken", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def _axes(count: int, *titles: tuple[str, str]) -> tuple[Figure, list]:
    """A figure with axes side by side, each with labels for x and y."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for axis, (x, y) in zip(axes, titles, strict=True):
        axis.set(xlabel=x, ylabel=y)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, entries: list[tuple[str, dict]]) -> None:
    """A legend beside the axes; `entries` are labels and the style of a line."""
    handles = [Line2D([], [], label=label, **style) for label, style in entries]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)


def _stated(row: RowReport, metric: Metric) -> tuple[float, float] | None:
    """The paper's FLOPs and accuracy of a row; FLOPs that it does not state are those counted."""
    accuracy = row.row.stated.get(metric.name)
    macs = row.row.stated.get("macs") or row.counted("macs")
    return None if accuracy is None or macs is None else (float(macs), float(accuracy))


def accuracy_plot(report: TableReport, mini: bool = False) -> Plot:
    """Accuracy against FLOPs: what was measured here (dots) and what is stated (diamonds).

    Where there is no accuracy at all, parameters against FLOPs. Runs with settings other than the
    config's are left out, and on mini data the paper's figures.
    """
    metric = report.table.metrics[0]
    points, entries, measured, stated = [], [], 0, 0
    for index, row in enumerate(report.rows):
        colour = COLOURS[index % len(COLOURS)]
        own = row.accuracy(metric, comparable=True)
        found = []
        if own is not None:
            found.append((row.counted("macs"), own, dict(marker="o", color=colour)))
            measured += 1
        if not mini and (paper := _stated(row, metric)):
            found.append((*paper, dict(marker="D", color=colour, markerfacecolor="none")))
            stated += 1
        points += found
        if found:
            entries.append((row.row.label, dict(found[0][2], linestyle="")))
    if not points:
        return _size_plot(report)
    figure, (axis,) = _axes(1, ("FLOPs, G", metric.label + metric.unit))
    for x, y, style in points:
        axis.plot([x], [y], linestyle="", markersize=8, **style)
    axis.margins(0.15)
    _legend(figure, entries)
    here = f"{measured} measured here (dots)" if measured else "none was measured here"
    caption = f"{metric.label} against FLOPs: {here}"
    caption += ", on mini data." if mini else f", {stated} stated (diamonds)."
    return Plot(_picture(figure), caption)


def _size_plot(report: TableReport) -> Plot:
    figure, (axis,) = _axes(1, ("FLOPs, G", "parameters, M"))
    entries, drawn = [], set()
    for index, row in enumerate(report.rows):
        # Of rows with the same model, as 1x and 3x, one is enough.
        if row.complexity and row.complexity not in drawn:
            drawn.add(row.complexity)
            style = dict(marker="s", color=COLOURS[index % len(COLOURS)], linestyle="")
            axis.plot([row.counted("macs")], [row.counted("params")], markersize=8, **style)
            entries.append((row.row.label, style))
    axis.margins(0.15)
    _legend(figure, entries)
    label = report.table.metrics[0].label
    return Plot(_picture(figure), f"There is no {label} to show: parameters against FLOPs.")


def convergence_plot(report: TableReport) -> Plot | None:
    """Loss and accuracy in the course of training, from the logs; None without any."""
    runs = [(i, row) for i, row in enumerate(report.rows) if row.run and row.run.losses]
    if not runs:
        return None
    metric = report.table.metrics[0]
    unit = runs[0][1].run.schedule.unit
    x = "epoch" if unit == "epoch" else "iteration"
    figure, (left, right) = _axes(
        2, ("iteration", "training loss"), (x, metric.label + metric.unit)
    )
    entries = []
    for index, row in runs:
        style = dict(color=COLOURS[index % len(COLOURS)])
        style["linestyle"] = "-" if row.run.finished else ":"
        left.plot(*zip(*row.run.losses, strict=True), **style)
        values = [
            (s, m[metric.key] * metric.scale) for s, m in row.run.accuracies if metric.key in m
        ]
        if values:
            right.plot(*zip(*values, strict=True), marker=".", **style)
        entries.append((row.row.label, style))
    if not any(line.get_xdata().size for line in right.lines):
        right.text(0.5, 0.5, "not validated", ha="center", transform=right.transAxes)
    _legend(figure, entries)
    return Plot(_picture(figure), "From the logs; dotted: runs that are not finished.")
