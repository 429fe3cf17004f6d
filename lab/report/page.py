"""The report as one HTML page that needs nothing else, with plots of accuracy and convergence."""

import base64
import io
from pathlib import Path

import matplotlib
import pandas as pd
from jinja2 import Environment
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lab.report.tables import (
    DIFFERENCES,
    LEGEND,
    MINI,
    TableReport,
    delta_grid,
    drop_changed,
    row_grid,
    summary,
)
from mmdualtoken.export.measure import quiet

_PAIRS = matplotlib.colormaps["tab20"].colors
COLOURS = _PAIRS[::2] + _PAIRS[1::2]  # neighbours of different hue


def _axes(*titles: tuple[str, str]) -> tuple[Figure, list]:
    """Make a figure with axes side by side, each with labels for x and y."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for axis, (x, y) in zip(axes, titles, strict=True):
        axis.set(xlabel=x, ylabel=y)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Figure, styles: dict[str, dict]) -> str:
    """Add a legend of line styles by label to a figure; returns it as an SVG data URL."""
    handles = [Line2D([], [], label=label, **style) for label, style in styles.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    out = io.BytesIO()
    # Equal figures make equal text.
    with matplotlib.rc_context({"svg.hashsalt": "mmdualtoken", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def accuracy_plot(report: TableReport, mini: bool = False) -> tuple[str, str]:
    """Plot accuracy against FLOPs: measured here (dots) and stated (diamonds).

    Without any accuracy, parameters against FLOPs. Runs with settings other than the config's are
    left out, and on mini data the paper's figures.

    Returns:
        the picture, and a sentence on what it shows.
    """
    metric, points = report.table.metrics[0], []
    for row in drop_changed(report.rows, report.table.metrics).itertuples():
        stated = {} if mini else row.row.stated
        points.append((row.Index, row.label, "o", row.macs, getattr(row, metric.name)))
        # Where the paper does not state the FLOPs, those counted stand for them.
        figures = stated.get("macs", row.macs), stated.get(metric.name)
        points.append((row.Index, row.label, "D", *figures))
    points = pd.DataFrame(points, columns=["index", "label", "marker", "x", "y"])
    points = points.astype({"x": float, "y": float}).dropna()
    label, measured = metric.label + metric.unit, sum(points.marker == "o")
    caption = f"{metric.label} against FLOPs: {measured or 'none was'} measured here"
    caption += " (dots)" if measured else ""
    caption += ", on mini data." if mini else f", {len(points) - measured} stated (diamonds)."
    if points.empty:
        # Of rows with the same model, as 1x and 3x, one is enough.
        models = report.rows.dropna(subset="macs").drop_duplicates(["params", "macs"])
        points = models.rename(columns={"macs": "x", "params": "y"}).assign(marker="s")
        points = points.reset_index()
        label = "parameters, M"
        caption = f"There is no {metric.label} to show: parameters against FLOPs."
    figure, (axis,) = _axes(("FLOPs, G", label))
    styles = {}
    for point in points.to_dict("records"):
        colour = COLOURS[point["index"] % len(COLOURS)]
        fill = "none" if point["marker"] == "D" else colour
        style = dict(marker=point["marker"], color=colour, markerfacecolor=fill, linestyle="")
        axis.plot([point["x"]], [point["y"]], markersize=8, **style)
        styles.setdefault(point["label"], style)
    axis.margins(0.15)
    return _picture(figure, styles), caption


def convergence_plot(report: TableReport) -> tuple[str, str] | None:
    """Plot loss and accuracy in the course of training, from the logs; None without any.

    Returns:
        the picture, and a sentence on what it shows.
    """
    rows = [row for row in report.rows.itertuples() if row.run and len(row.run.losses)]
    if not rows:
        return None
    metric, styles = report.table.metrics[0], {}
    x = "epoch" if rows[0].run.schedule.unit == "epoch" else "iteration"
    figure, (left, right) = _axes(("iteration", "training loss"), (x, metric.label + metric.unit))
    for row in rows:
        line = "-" if row.run.finished else ":"
        style = dict(color=COLOURS[row.Index % len(COLOURS)], linestyle=line)
        styles[row.label] = style
        left.plot(row.run.losses, **style)
        if metric.key in row.run.validations:
            values = row.run.validations[metric.key].dropna()
            right.plot(values * metric.scale, marker=".", **style)
    if not right.lines:
        right.text(0.5, 0.5, "not validated", ha="center", transform=right.transAxes)
    return _picture(figure, styles), "From the logs; dotted: runs that are not finished."


def render_page(reports: list[TableReport], mini: bool = False) -> str:
    """Return the report as one HTML page, plots included.

    Args:
        reports: the tables.
        mini: whether the runs were on mini data, which the page then says first.
    """
    with quiet():
        plots = [[accuracy_plot(report, mini), convergence_plot(report)] for report in reports]
    template = Path(__file__).with_name("page.html").read_text()
    page = Environment(autoescape=True, trim_blocks=True).from_string(template)
    return page.render(
        title="Mini data: not the paper's figures" if mini else "The paper's tables, measured",
        notice=MINI if mini else "",
        summary=summary(reports),
        failed=[line for report in reports for line in report.failed],
        legend=LEGEND,
        reports=[(r, list(filter(None, p))) for r, p in zip(reports, plots, strict=True)],
        mini=mini,
        row_grid=row_grid,
        delta_grid=delta_grid,
        differences=DIFFERENCES,
    )
