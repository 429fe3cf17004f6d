"""The pictures of the page: two that are clicked, and the one that is exported."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmdualtoken.inference.inspector.selection import Selection
from mmdualtoken.inference.inspector.subject import Subject, View
from mmdualtoken.inference.token_figures import HEAT

DPI = 100
LONG = 640  # px; the longer side of the area that is clicked
SHORT = 160  # px; its shorter side at least, where a photo is very long
STRIP = 70  # px; the strip with the colour bar below it
MARK, CHOSEN = "#ff2d2d", "#ff00c8"
SPAN = 0.1  # of a colour scale at least: what is all but even looks so
#: Weights times the number of tokens at the ends of the colours.
Scale = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """A picture with a strip below the area in which clicks count."""

    #: (H + STRIP, W, 3) RGB uint8.
    image: np.ndarray

    def share(self, x: float, y: float) -> tuple[float, float] | None:
        """A pixel as shares of the area's width and height; None beside it."""
        height, width = self.image.shape[0] - STRIP, self.image.shape[1]
        return (x / width, y / height) if 0 <= x < width and 0 <= y < height else None


def _area(picture: np.ndarray) -> tuple[int, int]:
    """Width and height of the area for a picture, px."""
    height, width = picture.shape[:2]
    scale = LONG / max(height, width)
    return max(SHORT, round(width * scale)), max(SHORT, round(height * scale))


def _axes(size: tuple[int, int]) -> tuple[Figure, Axes, Axes]:
    """A figure with an area of a size in px, and the strip for the colour bar."""
    width, height = size
    total = height + STRIP
    figure = Figure(figsize=((width + 0.1) / DPI, (total + 0.1) / DPI), dpi=DPI)  # it rounds down
    area = figure.add_axes((0, STRIP / total, 1, height / total))
    area.set_xlim(0, 1)
    area.set_ylim(1, 0)
    area.set_axis_off()
    bar = figure.add_axes((0.06, (STRIP - 22) / total, 0.88, 14 / total))
    return figure, area, bar


def _finish(figure: Figure, heat: ScalarMappable, bar: Axes) -> Panel:
    figure.colorbar(heat, cax=bar, orientation="horizontal")
    bar.set_xlabel("weight × number of tokens (1: even)", fontsize=11, labelpad=1)
    bar.tick_params(labelsize=10, pad=1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Panel(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def show_photo(
    ax: Axes, subject: Subject, view: View, selection: Selection, scale: Scale
) -> ScalarMappable:
    """Draw the photo under the chosen token's broadcast, (H, W) weights, and the chosen place."""
    index = "AB".index(subject.letter)
    weights = selection.attention(view)[..., selection.tokens[index]] * subject.num_tokens
    whole = dict(extent=(0, 1, 1, 0), aspect="auto")
    ax.imshow(_grey(view.picture), **whole)
    heat = ax.imshow(
        weights,
        cmap=HEAT,
        vmin=scale[0],
        vmax=scale[1],
        alpha=0.6,
        interpolation="nearest",
        **whole,
    )
    heat = ScalarMappable(heat.norm, heat.cmap)  # without the alpha, for the bar
    cell = selection.cell(view)
    if cell is not None:
        (row, column), (height, width) = cell, weights.shape
        box = dict(width=1 / width, height=1 / height, fill=False, clip_on=False)
        for colour, lw in (("white", 4), (MARK, 2)):
            ax.add_patch(Rectangle((column / width, row / height), ec=colour, lw=lw, **box))
        middle = (column + 0.5) / width, (row + 0.5) / height
        ax.plot(*middle, "+", color=MARK, ms=12, mew=2)
    return heat


def show_tokens(
    ax: Axes, subject: Subject, view: View, selection: Selection, scale: Scale
) -> ScalarMappable:
    """Draw what the chosen place reads from each token, on the photo if the tokens form a grid."""
    h, w = subject.token_size
    cell = selection.cell(view)
    read = np.full(h * w, np.nan) if cell is None else selection.attention(view)[cell] * h * w
    whole = dict(extent=(0, 1, 1, 0), aspect="auto")
    if subject.has_grid:
        ax.imshow(_grey(view.picture), **whole)
    heat = ax.imshow(
        read.reshape(h, w), cmap=HEAT, vmin=scale[0], vmax=scale[1], interpolation="nearest",
        alpha=0.75 if subject.has_grid else 1, **whole,
    )  # fmt: skip
    heat = ScalarMappable(heat.norm, heat.cmap)
    for i in range(1, h):
        ax.axhline(i / h, color="white", lw=1)
    for i in range(1, w):
        ax.axvline(i / w, color="white", lw=1)
    size = float(np.clip(90 / max(h, w), 5, 14))
    for token, value in enumerate(read):
        row, column = divmod(token, w)
        ax.text(
            (column + 0.5) / w, (row + 0.5) / h, _number(value),
            ha="center", va="center", fontsize=size, fontweight="bold",
            color="black" if value > scale[0] + 0.6 * (scale[1] - scale[0]) else "white",
        )  # fmt: skip
    row, column = divmod(selection.tokens["AB".index(subject.letter)], w)
    box = dict(width=1 / w, height=1 / h, fill=False, clip_on=False)
    for colour, lw in (("black", 5), (CHOSEN, 3)):
        ax.add_patch(Rectangle((column / w, row / h), ec=colour, lw=lw, **box))
    return heat


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def scales(subjects: list[Subject], views: Sequence[View], selection: Selection) -> list[Scale]:
    """The colour scales of the photos and of the tokens, each the same for all models."""
    shown: tuple[list, list] = ([], [])
    for i, (subject, view) in enumerate(zip(subjects, views, strict=True)):
        if selection.problem(subject):
            continue
        attention = selection.attention(view) * subject.num_tokens
        shown[0].append(attention[..., selection.tokens[i]].ravel())
        cell = selection.cell(view)
        if cell is not None:
            shown[1].append(attention[cell])
    return [_ends(np.concatenate([[1.0], *values])) for values in shown]


def _ends(values: np.ndarray) -> Scale:
    low, high = float(values.min()), float(values.max())
    more = max(0.0, SPAN - (high - low)) / 2
    return low - more, high + more


def photo_panel(subject: Subject, view: View, selection: Selection, scale: Scale) -> Panel:
    """The picture in which a place is clicked."""
    figure, area, bar = _axes(_area(view.picture))
    return _finish(figure, show_photo(area, subject, view, selection, scale), bar)


def tokens_panel(subject: Subject, view: View, selection: Selection, scale: Scale) -> Panel:
    """The picture in which a token is clicked."""
    figure, area, bar = _axes(_area(view.picture) if subject.has_grid else (LONG, SHORT))
    return _finish(figure, show_tokens(area, subject, view, selection, scale), bar)


def token_at(subject: Subject, share: tuple[float, float]) -> int:
    """The token at shares of the token panel's width and height."""
    h, w = subject.token_size
    return int(share[1] * h) * w + int(share[0] * w)
