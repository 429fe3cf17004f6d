"""The chosen attention of a model: as numbers, as captions and as pictures."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from mmdualtoken.inference.inspector.inspected_model import InspectedModel, Inspection
from mmdualtoken.inference.token_figures import HEAT

DPI = 100
LONG, SHORT = 640, 160  # px of the longer side of an area to click; of its shorter side at least
STRIP = 70  # px of the strip with the colour bar below the area
SPAN = 0.1  # of a colour scale at least, so that almost even weights look even
RED, PINK = "#ff2d2d", "#ff00c8"


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
        too_many = self.head is not None and self.head >= heads
        return f"This block of this model has heads 0 to {heads - 1}." if too_many else ""

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
    chosen = replace(before, place=(0.5, 0.5))
    most = [0] * len(models)
    for i, (model, inspection) in enumerate(zip(models, seen, strict=True)):
        if not chosen.missing_in(model):
            read = AttentionView(model, inspection, chosen).weights_of("tokens")
            most[i] = 0 if np.isnan(read).any() else int(read.argmax())
    return replace(chosen, tokens=tuple(most))


class AttentionView:
    """The attention of the chosen block and head of one model for one photo.

    Its parts: 'photo', where the chosen token is broadcast, and 'tokens', which tokens the chosen
    place reads from.
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

    def weights_of(self, part: str) -> np.ndarray:
        """Return the weights of 'photo', (H, W), or of 'tokens', (n,), NaN if cropped away."""
        if part == "photo":
            return self.weights[..., self.token]
        return self.weights[self.cell] if self.cell else np.full(self.model.num_tokens, np.nan)

    def describe(self, part: str) -> str:
        """Describe the picture of a part."""
        (height, width), number, weights = self.shape, self.model.num_tokens, self.weights_of(part)
        if part == "photo":
            return (
                f"Where **{self._token_name(self.token)}** is broadcast: how much each of the "
                f"{height}×{width} image tokens reads from it in {self.name}. Here "
                f"{weights.min():#.3g} to {weights.max():#.3g} times the even share."
            )
        if self.cell is None:
            return "The chosen place is cropped away before this model sees the photo."
        most = "It reads evenly from all"
        if np.ptp(weights) >= 0.01:  # the numbers in the picture differ
            order = weights.argsort()[::-1][:3]
            shares = (f"{self._token_name(t)} ({100 / number * weights[t]:.1f} %)" for t in order)
            most = f"Most: {', '.join(shares)}"
        return (
            f"How much the place at the red cross, **image token row {self.cell[0]}, column "
            f"{self.cell[1]}** of {height}×{width}, reads from each of the {number} global tokens "
            f"in {self.name} (even: {100 / number:.1f} %). {most}.\n\n{self.model.statement}"
        )

    def _token_name(self, token: int) -> str:
        if not self.model.has_grid:
            return f"token {token}"
        return "token row {}, column {}".format(*divmod(int(token), self.model.token_size[1]))

    def area(self, part: str) -> tuple[int, int]:
        """Width and height in px of the area to click in the picture of a part."""
        if part == "tokens" and not self.model.has_grid:
            return LONG, SHORT
        height, width = self.picture.shape[:2]
        scale = LONG / max(height, width)
        return max(SHORT, round(width * scale)), max(SHORT, round(height * scale))

    def draw(self, part: str, limits: tuple[float, float]) -> np.ndarray:
        """Draw the weights of a part over the photo in grey, above a colour bar.

        'photo' has a cross at the chosen place, 'tokens' a frame; `limits` are the smallest and the
        largest weight of the colours. Returns (H + STRIP, W, 3) RGB uint8, (W, H) the `area`.
        """
        width, height = self.area(part)
        size = (width + 0.1) / DPI, (height + STRIP + 0.1) / DPI  # it rounds down
        figure = Figure(size, dpi=DPI)
        low = STRIP / (height + STRIP)
        axes = figure.add_axes((0, low, 1, 1 - low))
        axes.set_axis_off()
        fill = dict(extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
        over_photo = part == "photo" or self.model.has_grid
        if over_photo:
            axes.imshow(self.picture.mean(-1), "gray", vmin=0, vmax=255, **fill)
        grid = self.shape if part == "photo" else self.model.token_size
        colours = dict(vmin=limits[0], vmax=limits[1], alpha=0.65 if over_photo else 1)
        heat = axes.imshow(self.weights_of(part).reshape(grid), HEAT, **colours, **fill)
        if part == "tokens":
            self._write_weights(axes, limits)
            _frame(axes, divmod(self.token, grid[1]), grid, PINK)
        elif self.cell:
            middle = _frame(axes, self.cell, grid, RED)
            axes.plot(*middle, "+", color=RED, ms=12, mew=2)
        bar = figure.add_axes((0.06, 0.69 * low, 0.88, 0.2 * low))
        opaque = ScalarMappable(heat.norm, heat.cmap)
        figure.colorbar(opaque, bar, orientation="horizontal")
        bar.set_xlabel("weight × number of tokens (1: even)", fontsize=11, labelpad=1)
        bar.tick_params(labelsize=10, pad=1)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _write_weights(self, axes: Axes, limits: tuple[float, float]) -> None:
        h, w = self.model.token_size
        axes.hlines(np.arange(1, h) / h, 0, 1, "white", lw=1)
        axes.vlines(np.arange(1, w) / w, 0, 1, "white", lw=1)
        style = dict(ha="center", va="center", fontweight="bold", fontsize=min(14, 90 / max(h, w)))
        bright = limits[0] + 0.6 * (limits[1] - limits[0])
        for token, value in enumerate(self.weights_of("tokens")):
            if not np.isnan(value):
                text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
                place = (token % w + 0.5) / w, (token // w + 0.5) / h
                axes.text(*place, text, color="black" if value > bright else "white", **style)


def _frame(axes: Axes, cell: tuple, grid: tuple, colour: str) -> tuple[float, float]:
    """Frame a cell (row, column) of a grid; returns its middle."""
    height, width = 1 / grid[0], 1 / grid[1]
    x, y = cell[1] * width, cell[0] * height
    outline = withStroke(linewidth=5, foreground="white")
    edge = dict(fill=False, clip_on=False, ec=colour, lw=3, path_effects=[outline])
    axes.add_patch(Rectangle((x, y), width, height, **edge))
    return x + width / 2, y + height / 2


def color_limits(weights: Sequence[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest of all weights and 1, at least SPAN apart."""
    values = np.concatenate([[1.0], *(w.ravel() for w in weights)])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = max(0.0, SPAN - (high - low)) / 2
    return low - margin, high + margin


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
