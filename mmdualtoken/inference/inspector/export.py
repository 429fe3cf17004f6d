"""The picture that is exported: all that the page shows, with what it is."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from mmdualtoken.inference.inspector.captions import photo_caption, tokens_caption
from mmdualtoken.inference.inspector.drawing import scales, show_photo, show_tokens
from mmdualtoken.inference.inspector.selection import Selection
from mmdualtoken.inference.inspector.subject import Subject, View

SIDE = 4.2  # inches of a panel's width


def export_figure(
    subjects: list[Subject], views: Sequence[View], selection: Selection, photo: str
) -> Figure:
    """All that the page shows: for each model a row of prediction, photo and tokens, captioned."""
    height, width = views[0].picture.shape[:2]
    row = SIDE * float(np.clip(height / width, 0.5, 1.4)) + 1.6
    figure = Figure(figsize=(3 * SIDE + 1, row * len(subjects) + 0.6), layout="constrained")
    figure.suptitle(f"{photo}: {selection.name}", fontsize=12, parse_math=False)
    grid = figure.subplots(len(subjects), 3, squeeze=False)
    ends = scales(subjects, views, selection)
    for axes, subject, view in zip(grid, subjects, views, strict=True):
        for ax in axes:
            ax.set_axis_off()
        title = _wrapped(f"{subject.title.replace('`', '')}\n{view.said}")
        axes[0].imshow(view.prediction)
        axes[0].set_title(title, fontsize=8, parse_math=False)
        problem = selection.problem(subject)
        if problem:
            axes[1].text(0, 0.5, _wrapped(problem, 60), fontsize=9, va="center", parse_math=False)
            continue
        shape = view.picture.shape[0] / view.picture.shape[1]
        shown = ((show_photo, photo_caption), (show_tokens, tokens_caption))
        for ax, (show, caption), scale in zip(axes[1:], shown, ends, strict=True):
            heat = show(ax, subject, view, selection, scale)
            ax.set_box_aspect(shape if subject.has_grid or show is show_photo else 0.25)
            ax.set_title(_wrapped(caption(subject, view, selection)), fontsize=8)
            bar = figure.colorbar(heat, ax=ax, orientation="horizontal", shrink=0.8, pad=0.02)
            bar.set_label("weight × number of tokens (1: even)", fontsize=8)
            bar.ax.tick_params(labelsize=7)
    return figure


def _wrapped(text: str, width: int = 75) -> str:
    lines = text.replace("**", "").splitlines()
    return "\n".join("\n".join(textwrap.wrap(line, width)) for line in lines)
