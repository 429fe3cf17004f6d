"""Draw docs/images/architecture.svg: the stages, and one Dual Token block.

python docs/site/draw_architecture.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

IMAGE, TOKEN, FUSED, PLAIN = "#cfe3f5", "#fbe0bd", "#d9ecd0", "#eeeeee"
INK = "#222222"


def box(ax, x, y, text, color, width=2.1, height=0.72, size=8.5):
    """A box around the point (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.09"
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=style, fc=color, ec=INK, lw=0.9, zorder=2)
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=size, color=INK, zorder=3)


def arrow(ax, *points, dashed=False):
    """A line through the points, with a head at the last."""
    style = dict(color=INK, lw=1.0, ls="--" if dashed else "-", zorder=1)
    if len(points) > 2:
        ax.plot(*zip(*points[:-1], strict=True), **style)
    ax.annotate(
        "",
        points[-1],
        points[-2],
        arrowprops=dict(arrowstyle="-|>", shrinkA=0, shrinkB=0, **style),
    )


def plus(ax, x, y):
    ax.text(
        x,
        y,
        "+",
        ha="center",
        va="center",
        fontsize=11,
        zorder=3,
        bbox=dict(boxstyle="circle,pad=0.12", fc="white", ec=INK, lw=0.9),
    )


def draw_stages(ax):
    """Image tokens above, global tokens below."""
    stages = (("1", "8", "2", "2"), ("2", "16", "6", "6"), ("3", "32", "4", "6"))
    box(ax, 1.2, 2.0, "image\n3 × H × W", PLAIN, 1.6)
    box(ax, 3.3, 2.0, "stem\nstride 8", IMAGE, 1.6)
    box(ax, 3.3, 0.6, "learned tokens G\n7 × 7", TOKEN, 1.7)
    arrow(ax, (2.0, 2.0), (2.5, 2.0))
    right, bottom = 4.1, 4.15
    for i, (number, stride, tiny, small) in enumerate(stages):
        x = 5.65 + 4.15 * i
        text = f"stage {number}, stride {stride}\n{small} Dual Token blocks\n({tiny} in tiny)"
        box(ax, x, 1.3, text, FUSED, 2.0, 2.3)
        arrow(ax, (right, 2.0), (x - 1.0, 2.0))
        arrow(ax, (bottom, 0.6), (x - 1.0, 0.6))
        arrow(ax, (x, 2.45), (x, 3.05))
        ax.text(x, 3.12, f"map at stride {stride}", ha="center", va="bottom", fontsize=8.5)
        if i < 2:
            box(ax, x + 2.1, 2.0, "merging", IMAGE, 1.4)
            box(ax, x + 2.1, 0.6, "LN, Linear", TOKEN, 1.4)
            arrow(ax, (x + 1.0, 2.0), (x + 1.4, 2.0))
            arrow(ax, (x + 1.0, 0.6), (x + 1.4, 0.6))
            right = bottom = x + 2.8
    ax.set(xlim=(0.2, 15.2), ylim=(0, 3.6))
    ax.set_title("Three stages", loc="left", fontsize=11)


def draw_block(ax):
    """One block, image tokens from left to right above, global tokens below."""
    ax.text(0.3, 5.0, "X", fontsize=12, ha="center", va="center")
    box(ax, 1.3, 5.0, "LN", IMAGE, 0.8)
    arrow(ax, (0.5, 5.0), (0.9, 5.0))
    box(ax, 3.6, 5.0, "Conv Encoder\n(not in stage 3)", IMAGE)
    arrow(ax, (1.7, 5.0), (2.55, 5.0))
    plus(ax, 9.6, 5.0)
    arrow(ax, (4.65, 5.0), (9.38, 5.0))
    ax.text(7.6, 5.08, r"$X_{local}$", ha="center", va="bottom", fontsize=10)

    box(ax, 5.6, 3.7, "downsampling\nto 7 × 7", TOKEN, 1.7)
    arrow(ax, (5.6, 5.0), (5.6, 4.06))
    box(ax, 5.6, 2.4, "self-attention\non 7 × 7", TOKEN, 1.7)
    arrow(ax, (5.6, 3.34), (5.6, 2.76))
    box(ax, 3.2, 1.0, "LN, token MLP", TOKEN, 1.7)
    ax.text(0.3, 1.0, "G", fontsize=12, ha="center", va="center")
    arrow(ax, (0.5, 1.0), (2.35, 1.0))
    plus(ax, 5.6, 1.0)
    arrow(ax, (4.05, 1.0), (5.38, 1.0))
    ax.text(4.72, 1.06, "× α", ha="center", va="bottom", fontsize=9)
    arrow(ax, (5.6, 2.04), (5.6, 1.22))
    ax.text(5.68, 1.62, r"$X_{ga}$ × (1 − α)", ha="left", va="center", fontsize=9)

    box(ax, 9.6, 2.9, "cross-attention\nk, v from tokens", FUSED, 2.0)
    arrow(ax, (5.82, 1.0), (9.6, 1.0), (9.6, 2.54))
    ax.text(8.9, 1.06, r"$G_{new}$", ha="center", va="bottom", fontsize=10)
    # From the image tokens after LN, below the downsampling, to the queries.
    arrow(ax, (2.1, 5.0), (2.1, 3.05), (8.6, 3.05))
    ax.text(7.65, 3.1, "q", ha="center", va="bottom", fontsize=10)
    arrow(ax, (9.6, 3.26), (9.6, 4.78))
    ax.text(9.68, 4.0, r"$X_{global}$", ha="left", va="center", fontsize=10)

    box(ax, 10.8, 5.0, "Wo", FUSED, 0.8)
    arrow(ax, (9.82, 5.0), (10.4, 5.0))
    plus(ax, 11.75, 5.0)
    arrow(ax, (11.2, 5.0), (11.53, 5.0))
    arrow(ax, (0.7, 5.0), (0.7, 5.95), (11.75, 5.95), (11.75, 5.22))
    box(ax, 13.1, 5.0, "LN, FFN,\nBiDim", IMAGE, 1.2)
    arrow(ax, (11.97, 5.0), (12.5, 5.0))
    plus(ax, 14.15, 5.0)
    arrow(ax, (13.7, 5.0), (13.93, 5.0))
    arrow(ax, (12.2, 5.0), (12.2, 5.75), (14.15, 5.75), (14.15, 5.22))
    arrow(ax, (14.37, 5.0), (14.75, 5.0))
    ax.text(14.9, 5.0, "X", fontsize=12, ha="center", va="center")

    plus(ax, 13.1, 1.0)
    arrow(ax, (9.6, 1.0), (12.88, 1.0))
    arrow(ax, (1.2, 1.0), (1.2, 0.2), (13.1, 0.2), (13.1, 0.78))
    arrow(ax, (13.32, 1.0), (14.75, 1.0))
    ax.text(14.9, 1.0, "G", fontsize=12, ha="center", va="center")
    ax.set(xlim=(0.2, 15.2), ylim=(0, 6.3))
    ax.set_title("One Dual Token block", loc="left", fontsize=11)


def main():
    plt.rcParams["svg.hashsalt"] = "mmdualtoken"  # the same file each time
    heights = dict(height_ratios=(3.6, 6.3))
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 7.8), gridspec_kw=heights)
    for ax, draw in ((above, draw_stages), (below, draw_block)):
        ax.set_axis_off()
        ax.set_aspect("equal")
        draw(ax)
    figure.tight_layout()
    default = Path(__file__).resolve().parents[1] / "images" / "architecture.svg"
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    meta = dict(Date=None) if target.suffix == ".svg" else {}
    figure.savefig(target, dpi=110, facecolor="white", metadata=meta)


if __name__ == "__main__":
    main()
