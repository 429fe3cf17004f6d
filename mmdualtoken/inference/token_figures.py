"""Figures of token maps, laid out like the paper's Figures 1 and 4."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.linalg import norm
from torchvision.utils import make_grid

from mmdualtoken.inference.tokens import BlockMaps, TokenMaps

HEAT, SIZE = "viridis", "magma"
MARKS = (("A", "#e31a1c"), ("B", "#ff7f00"), ("C", "#1f78b4"))
SIDE = 2.1  # inches of a panel's larger side


def _panels(rows: int, columns: int, maps: TokenMaps, extra: float = 0.0) -> tuple:
    """A figure of rows x columns panels in the shape of the image, and its axes."""
    height, width = maps.inputs.shape[2:]
    w, h = SIDE * min(1, width / height), SIDE * min(1, height / width)
    size = (columns * (w + 0.35) + 0.4 + extra, rows * (h + 0.35) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    return figure, axes


def _show(ax: Axes, values: np.ndarray, title: str = "", **options) -> ScalarMappable:
    """Draw a map or picture over the area of the image, so that panels correspond."""
    picture = ax.imshow(values, extent=(0, 1, 1, 0), aspect="auto", **options)
    if title:
        ax.set_title(title, fontsize=8)
    return picture


def _bar(figure: Figure, picture: ScalarMappable, axes, label: str) -> None:
    bar = figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.ax.ticklabel_format(useOffset=False)


def _colours(tokens: np.ndarray) -> np.ndarray:
    """The first three principal components as red, green, blue: (H, W, C) -> (H, W, 3) in [0, 1].

    Tokens of similar features get similar colours; the colour itself means nothing.
    """
    flat = tokens.reshape(-1, tokens.shape[-1])
    flat = flat - flat.mean(0)
    _, _, directions = np.linalg.svd(flat, full_matrices=False)
    parts = flat @ directions[:3].T
    parts = np.pad(parts, ((0, 0), (0, 3 - parts.shape[1])))  # fewer than three tokens
    low, high = np.percentile(parts, (2, 98), axis=0)
    colours = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return colours.reshape(*tokens.shape[:-1], 3)


def _grid(maps: TokenMaps, values: np.ndarray) -> np.ndarray:
    """Values of the n global tokens on their grid: (n, ...) -> (h, w, ...)."""
    return values.reshape(*maps.token_size, *values.shape[1:])


def key_tokens(broadcast: np.ndarray) -> list[tuple[int, int]]:
    """Image tokens to look at: the two that read most from few global tokens, and the one that
    reads most evenly.

    Attention (H, W, n) of the image tokens -> (row, column) of each. The second is at least a
    quarter of the map away from the first.
    """
    peak = broadcast.max(-1)
    height, width = peak.shape
    first = np.unravel_index(peak.argmax(), peak.shape)
    rows, columns = np.indices(peak.shape)
    far = np.maximum(abs(rows - first[0]) / height, abs(columns - first[1]) / width) >= 0.25
    away = np.where(far, peak, -1)
    second = np.unravel_index(away.argmax(), peak.shape)
    even = np.unravel_index(peak.argmin(), peak.shape)
    return [tuple(int(i) for i in place) for place in (first, second, even)]


def attention_figure(
    maps: TokenMaps, block: BlockMaps, picture: np.ndarray, rows: dict[str, np.ndarray]
) -> Figure:
    """Draw Figure 4: the image, the attention of three of its tokens, and the largest of all.

    `rows` are the attention (H, W, n) of each row of the figure, by the row's name.
    """
    figure, axes = _panels(len(rows), 5, maps, extra=0.9)
    figure.suptitle(f"Global broadcast of {block.name}", fontsize=9)
    titles = ["image and tokens A, B, C", "A, a key token", "B, a key token", "C, reads evenly"]
    for ax, title in zip(axes[0], [*titles, "largest weight"], strict=True):
        ax.set_title(title, fontsize=8)
    for row, (name, attention) in zip(axes, rows.items(), strict=True):
        height, width, number = attention.shape
        places = key_tokens(attention)
        _show(row[0], picture)
        row[0].set_ylabel(name, fontsize=8)
        top = max(attention[place].max() for place in places) * number
        for ax, place, (letter, colour) in zip(row[1:4], places, MARKS, strict=True):
            y, x = (place[0] + 0.5) / height, (place[1] + 0.5) / width
            for panel in (row[0], ax) if maps.grid else (row[0],):
                panel.plot(x, y, "o", mfc=colour, mec="white", ms=6, mew=1)
            offset = (5 if x < 0.85 else -13, 5 if y > 0.15 else -13)  # px, inside the picture
            row[0].annotate(
                letter, (x, y), xytext=offset, textcoords="offset points", color="white",
                fontsize=8, fontweight="bold", bbox=dict(fc=colour, ec="none", pad=1),
            )  # fmt: skip
            values = _grid(maps, attention[place] * number)
            heat = _show(ax, values, cmap=HEAT, vmin=0, vmax=top)
        _bar(figure, heat, row[3], "weight × n")
        largest = attention.max(-1) * number  # at least 1, where a token reads evenly
        overall = _show(row[4], largest, cmap=SIZE, vmin=1, vmax=max(2, largest.max()))
        _bar(figure, overall, row[4], "weight × n")
    return figure


def tokens_figure(
    maps: TokenMaps, block: BlockMaps, picture: np.ndarray, heads: list[int]
) -> Figure:
    """Draw Figure 1: the image tokens that read from each global token, arranged as the grid."""
    attention = block.broadcast[0][heads].mean(0)
    h, w = maps.token_size
    figure, axes = _panels(1, 2, maps, extra=0.6)
    figure.set_size_inches(*(2 * figure.get_size_inches()))
    _show(axes[0, 0], picture, "image, grid of the tokens" if maps.grid else "image")
    if maps.grid:
        axes[0, 0].hlines(np.arange(1, h) / h, 0, 1, "white", lw=0.6)
        axes[0, 0].vlines(np.arange(1, w) / w, 0, 1, "white", lw=0.6)
    tiles = torch.from_numpy(attention * attention.shape[-1]).permute(2, 0, 1)[:, None]
    mosaic = make_grid(tiles, nrow=w, padding=1, pad_value=torch.nan)[0].numpy()
    name = "mean of heads" if len(heads) > 1 else f"head {heads[0]}"
    title = f"read from each token, {block.name}, {name}"
    heat = _show(axes[0, 1], mosaic, title, cmap=HEAT, vmin=0, interpolation="nearest")
    _bar(figure, heat, axes[0, 1], "weight × n (1: even)")
    return figure


def stages_figure(maps: TokenMaps, picture: np.ndarray) -> Figure:
    """Draw the image tokens after each stage: length and principal components."""
    figure, axes = _panels(2, len(maps.stages) + 1, maps, extra=0.3 * len(maps.stages))
    _show(axes[0, 0], picture, "image")
    axes[1, 0].set_axis_off()
    for i, stage in enumerate(maps.stages, start=1):
        tokens = stage[0]
        title = f"stage {i - 1}, {tokens.shape[0]}×{tokens.shape[1]}"
        heat = _show(axes[0, i], norm(tokens, axis=-1), f"{title}: length", cmap=SIZE)
        _bar(figure, heat, axes[0, i], "")
        _show(axes[1, i], _colours(tokens), "principal components")
    return figure


def contributions_figure(maps: TokenMaps, block: BlockMaps, picture: np.ndarray) -> Figure:
    """Draw the contributions of Conv Encoder and tokens to one block, and to all."""
    figure, axes = _panels(1, 5, maps, extra=2.2)
    figure.suptitle(f"Local and global contribution, {block.name}", fontsize=9)
    local, tokens = (norm(part[0], axis=-1) for part in (block.local, block.tokens))
    top = max(local.max(), tokens.max())
    _show(axes[0, 0], picture, "image")
    _show(axes[0, 1], local, "local: |Wo X_local|", cmap=SIZE, vmin=0, vmax=top)
    heat = _show(axes[0, 2], tokens, "tokens: |Wo X_global|", cmap=SIZE, vmin=0, vmax=top)
    _bar(figure, heat, axes[0, 2], "length")
    share = tokens / np.maximum(local + tokens, 1e-12)
    heat = _show(axes[0, 3], share, "share of the tokens", cmap="coolwarm", vmin=0, vmax=1)
    _bar(figure, heat, axes[0, 3], "tokens / (local + tokens)")
    ax = axes[0, 4]
    lengths = [[norm(p[0], axis=-1).mean() for p in (b.tokens, b.local)] for b in maps.blocks]
    shares = [tokens / (tokens + local) for tokens, local in lengths]
    colours = ["#b40426" if b is block else "#777" for b in maps.blocks]
    ax.bar(range(len(shares)), shares, color=colours)
    ax.set_title("mean share of the tokens, all blocks", fontsize=8)
    ax.set_xticks(range(len(shares)), [f"{b.stage}.{b.block}" for b in maps.blocks], rotation=90)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.tick_params(labelsize=6)
    ax.set_xlabel("stage.block", fontsize=7)
    ax.set_ylim(0, 1)
    return figure


def grids_figure(maps: TokenMaps) -> Figure:
    """Draw the global tokens after each block; similar tokens get similar colours."""
    stages = sorted({b.stage for b in maps.blocks})
    columns = max(sum(b.stage == s for b in maps.blocks) for s in stages)
    figure, axes = _panels(len(stages), columns, maps)
    figure.suptitle("Global tokens after each block, principal components as colours", fontsize=9)
    for ax in axes.flat:
        ax.set_axis_off()
    for row, stage in zip(axes, stages, strict=True):
        for ax, block in zip(row, (b for b in maps.blocks if b.stage == stage), strict=False):
            colours = _colours(_grid(maps, block.tokens_out[0]))
            _show(ax, colours, block.name, interpolation="nearest")
            ax.set_axis_on()
    return figure


def picture_of(model, inputs: np.ndarray) -> np.ndarray:
    """Turn the backbone's input, (3, H, W), into a picture (H, W, 3) RGB uint8."""
    preprocessor = getattr(model, "data_preprocessor", None)
    mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    if mean is None:
        inputs = (inputs - inputs.min()) / max(np.ptp(inputs), 1e-12) * 255
    else:
        mean, std = (value.cpu().numpy().reshape(-1, 1, 1) for value in (mean, std))
        inputs = inputs * std + mean
    picture = inputs.transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8)
    # Of mmpretrain, mmdet and mmseg; without any, the input is taken for RGB.
    names = ("to_rgb", "_channel_conversion", "channel_conversion")
    is_rgb = next((getattr(preprocessor, n) for n in names if hasattr(preprocessor, n)), True)
    return picture if is_rgb else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def all_figures(
    maps: TokenMaps, block: BlockMaps, picture: np.ndarray, head: int | None = None
) -> dict[str, Callable[[], Figure]]:
    """Return the figures by name, each drawn when it is called.

    `block` is the one of `maps.blocks` to look into; `picture`, (H, W, 3) RGB uint8, is as the
    backbone saw it; `head` is one head, from 0, all by default.
    """
    attention = block.broadcast[0]
    heads = list(range(len(attention))) if head is None else [head]
    each = {f"head {i}": attention[i] for i in heads}
    first = {"mean of heads": attention.mean(0)} if head is None else each
    figures = {
        "attention": lambda: attention_figure(maps, block, picture, first),
        "heads": lambda: attention_figure(maps, block, picture, each),
        "tokens": lambda: tokens_figure(maps, block, picture, heads),
        "stages": lambda: stages_figure(maps, picture),
        "contributions": lambda: contributions_figure(maps, block, picture),
        "grids": lambda: grids_figure(maps),
    }
    if head is not None:
        del figures["heads"]
    return figures
