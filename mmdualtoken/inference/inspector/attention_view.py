"""The chosen attention of a model: as numbers, as captions and as pictures."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmdualtoken.inference.inspector.inspected_model import InspectedModel, Inspection
from mmdualtoken.inference.token_figures import HEAT

DPI = 100
LONG, SHORT = 640, 160  # px of the longer side of an area to click; of its shorter side at least
STRIP = 70  # px of the strip with the colour bar below the area
SPAN = 0.1  # of a colour scale at least, so that almost even weights look even
SCALE = "weight × number of tokens (1: even)"


@dataclass(frozen=True)
class Selection:
    """Block, head, place and tokens, the same for all models of the page."""

    stage: int = 0
    block: int = 0
    #: None for the mean of all heads.
    head: int | None = None
    #: Shares of the photo's width and height; outside of 0 to 1 where a model pads.
    place: tuple[float, float] = (0.5, 0.5)
    #: The chosen global token of each model.
    tokens: tuple[int, ...] = (0, 0)

    @property
    def name(self) -> str:
        """Block as in the state dict, and head."""
        head = "mean of heads" if self.head is None else f"head {self.head}"
        return f"stages.{self.stage}.blocks.{self.block}, {head}"

    def missing_in(self, model: InspectedModel) -> str:
        """Say why a model has no attention for this choice; empty if it has."""
        if not model.heads:
            return model.statement
        heads = model.heads.get((self.stage, self.block))
        if heads is None:
            blocks = ", ".join(f"{stage}.{block}" for stage, block in model.heads)
            return f"This model has no such block; its blocks, as stage.block: {blocks}."
        if self.head is not None and self.head >= heads:
            return f"This block of this model has heads 0 to {heads - 1}."
        return ""

    def with_token(
        self, models: Sequence[InspectedModel], index: int, token: int
    ) -> tuple[int, ...]:
        """Return `tokens` with one model's replaced, and others moved to its share of the grid.

        A grid and a row without places have nothing in common: there, the others stay.
        """
        clicked = models[index]
        shares = (np.array(divmod(token, clicked.token_size[1])) + 0.5) / clicked.token_size
        tokens = list(self.tokens)
        for i, model in enumerate(models):
            if model.heads and model.has_grid == clicked.has_grid:
                row, column = (shares * model.token_size).astype(int)
                tokens[i] = int(row * model.token_size[1] + column)
        return tuple(tokens)


def first_selection(
    models: Sequence[InspectedModel], seen: Sequence[Inspection], before: Selection | None
) -> Selection:
    """Choose for a new photo: its middle, and the token that this place reads most from.

    Block and head stay as before; at first they are the last block and the mean of the heads.
    """
    if before is None:
        blocks = [set(model.heads) for model in models if model.heads]
        before = Selection(*max(set.intersection(*blocks)) if blocks else ())
    chosen = Selection(before.stage, before.block, before.head)
    views = [
        None if chosen.missing_in(model) else AttentionView(model, inspection, chosen)
        for model, inspection in zip(models, seen, strict=True)
    ]
    most = (0 if v is None or v.cell is None else int(v.read.argmax()) for v in views)
    return replace(chosen, tokens=tuple(most))


class AttentionView:
    """The attention of the chosen block and head of one model for one photo.

    Args:
        model: the model; it has the block.
        seen: its results for the photo.
        selection: the choice on the page.
    """

    def __init__(self, model: InspectedModel, seen: Inspection, selection: Selection):
        self.model = model
        self.picture = seen.picture
        self.name = selection.name
        self.token = selection.tokens["AB".index(model.letter)]
        heads = seen.broadcast[selection.stage, selection.block]
        attention = heads.mean(0) if selection.head is None else heads[selection.head]
        #: (H, W, n): how much each image token reads from each global token; 1 is reading evenly.
        self.weights = attention * model.num_tokens
        self.shape = attention.shape[:2]
        found = seen.placement.to_input(selection.place)
        #: Row and column of the image token at the chosen place; None if that is cropped away.
        self.cell = found and (int(found[1] * self.shape[0]), int(found[0] * self.shape[1]))

    @property
    def broadcast(self) -> np.ndarray:
        """(H, W): how much each image token reads from the chosen global token."""
        return self.weights[..., self.token]

    @property
    def read(self) -> np.ndarray:
        """(n,): how much the chosen place reads from each global token; NaN if cropped away."""
        nothing = np.full(self.model.num_tokens, np.nan)
        return nothing if self.cell is None else self.weights[self.cell]

    def describe_broadcast(self) -> str:
        """Describe where the chosen token is broadcast."""
        height, width = self.shape
        return (
            f"Where **{self._token_name(self.token)}** is broadcast: how much each of the "
            f"{height}×{width} image tokens reads from it in {self.name}. Here "
            f"{self.broadcast.min():#.3g} to {self.broadcast.max():#.3g} times the even share."
        )

    def describe_read(self) -> str:
        """Describe which tokens the chosen place reads from."""
        if self.cell is None:
            return "The chosen place is cropped away before this model sees the photo."
        (height, width), number = self.shape, self.model.num_tokens
        most = "It reads evenly from all"
        if np.ptp(self.read) >= 0.01:  # the numbers in the picture differ
            percent = 100 / number * self.read
            order = percent.argsort()[::-1][:3]
            most = ", ".join(f"{self._token_name(t)} ({percent[t]:.1f} %)" for t in order)
            most = f"Most: {most}"
        return (
            f"How much the place at the red cross, **image token row {self.cell[0]}, column "
            f"{self.cell[1]}** of {height}×{width}, reads from each of the {number} global tokens "
            f"in {self.name} (even: {100 / number:.1f} %). {most}."
        )

    def _token_name(self, token: int) -> str:
        if not self.model.has_grid:
            return f"token {token}"
        return "token row {}, column {}".format(*divmod(int(token), self.model.token_size[1]))

    def area(self, part: str) -> tuple[int, int]:
        """Width and height in px of the area to click in the picture of 'photo' or 'tokens'."""
        if part == "tokens" and not self.model.has_grid:
            return LONG, SHORT
        height, width = self.picture.shape[:2]
        scale = LONG / max(height, width)
        return max(SHORT, round(width * scale)), max(SHORT, round(height * scale))

    def draw_broadcast(self, limits: tuple[float, float]) -> np.ndarray:
        """Draw the photo under the chosen token's broadcast, with a cross at the chosen place.

        Returns:
            (H + STRIP, W, 3) RGB uint8, (W, H) the `area`.
        """
        figure, axes = _panel(self.area("photo"), self.picture, self.broadcast, limits, 0.6)
        if self.cell is not None:
            row, column = self.cell
            _frame(axes, self.cell, self.shape, {"white": 4, "#ff2d2d": 2})
            place = (column + 0.5) / self.shape[1], (row + 0.5) / self.shape[0]
            axes.plot(*place, "+", color="#ff2d2d", ms=12, mew=2)
        return _pixels(figure)

    def draw_read(self, limits: tuple[float, float]) -> np.ndarray:
        """Draw how much the chosen place reads from each token, on the photo if they form a grid.

        Returns:
            (H + STRIP, W, 3) RGB uint8, (W, H) the `area`.
        """
        h, w = self.model.token_size
        picture, alpha = (self.picture, 0.75) if self.model.has_grid else (None, 1.0)
        figure, axes = _panel(self.area("tokens"), picture, self.read.reshape(h, w), limits, alpha)
        axes.hlines(np.arange(1, h) / h, 0, 1, "white", lw=1)
        axes.vlines(np.arange(1, w) / w, 0, 1, "white", lw=1)
        bright = limits[0] + 0.6 * (limits[1] - limits[0])
        style = dict(ha="center", va="center", fontweight="bold")
        style["fontsize"] = float(np.clip(90 / max(h, w), 5, 14))
        for token, value in enumerate(self.read):
            place = (token % w + 0.5) / w, (token // w + 0.5) / h
            text = "" if np.isnan(value) else f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axes.text(*place, text, color="black" if value > bright else "white", **style)
        _frame(axes, divmod(self.token, w), (h, w), {"black": 5, "#ff00c8": 3})
        return _pixels(figure)


def color_limits(weights: Sequence[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest of all weights and 1, at least SPAN apart."""
    values = np.concatenate([[1.0], *(w.ravel() for w in weights)])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.0, SPAN - (high - low)) / 2
    return low - margin, high + margin


def _panel(
    area: tuple[int, int],
    picture: np.ndarray | None,
    weights: np.ndarray,
    limits: tuple[float, float],
    alpha: float,
) -> tuple[Figure, Axes]:
    """Draw weights over a picture in grey, above a strip with the colour bar."""
    width, height = area[0], area[1] + STRIP
    figure = Figure(figsize=((width + 0.1) / DPI, (height + 0.1) / DPI), dpi=DPI)  # it rounds down
    axes = figure.add_axes((0, STRIP / height, 1, 1 - STRIP / height))
    whole = dict(extent=(0, 1, 1, 0), aspect="auto")
    if picture is not None:
        axes.imshow(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), "gray", vmin=0, vmax=255, **whole)
    colours = dict(cmap=HEAT, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    heat = axes.imshow(weights, alpha=alpha, **colours, **whole)
    axes.set(xlim=(0, 1), ylim=(1, 0))
    axes.set_axis_off()
    bar = figure.add_axes((0.06, (STRIP - 22) / height, 0.88, 14 / height))
    figure.colorbar(ScalarMappable(heat.norm, heat.cmap), bar, orientation="horizontal")  # opaque
    bar.set_xlabel(SCALE, fontsize=11, labelpad=1)
    bar.tick_params(labelsize=10, pad=1)
    return figure, axes


def _frame(axes: Axes, cell: tuple[int, int], shape: tuple[int, int], edges: dict) -> None:
    """Frame a cell of a grid by edges, each a colour and its width."""
    height, width = 1 / shape[0], 1 / shape[1]
    corner = cell[1] * width, cell[0] * height
    for colour, line in edges.items():
        edge = dict(fill=False, clip_on=False, ec=colour, lw=line)
        axes.add_patch(Rectangle(corner, width, height, **edge))


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def export_figure(title: str, rows: Sequence[Sequence[tuple[np.ndarray | None, str]]]) -> Figure:
    """Put the pictures of the page, a row for each model, below their captions."""
    figure = Figure(figsize=(13.6, 6.6 * len(rows) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for ax, (picture, caption) in zip(grid.flat, (p for row in rows for p in row), strict=True):
        lines = caption.replace("**", "").replace("`", "").splitlines()
        text = "\n".join(textwrap.fill(line, 75) for line in lines)
        ax.set_title(text, fontsize=8, parse_math=False)
        ax.set_axis_off()
        if picture is not None:
            ax.imshow(picture)
    return figure
