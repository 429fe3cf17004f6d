"""Draw the attention and tokens of a DualTokenViT for an image: figures like the paper's 1 and 4.

Works with configs of mmdet, mmseg and mmpretrain. Writes attention.png, heads.png, tokens.png,
stages.png, contributions.png, grids.png and, with the numbers, maps.npz: see docs/tools.md.
"""

import argparse
import contextlib
import sys

import numpy as np

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.files import check_new_folder
from mmdualtoken.inference import load_model
from mmdualtoken.inference.token_figures import all_figures, picture_of
from mmdualtoken.inference.tokens import (
    BlockMaps,
    TokenMaps,
    find_backbone,
    inspect_tokens,
    select_block,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("image", help="image file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the figures")
    parser.add_argument(
        "--stage", type=int, default=-1, help="stage from 0, or -1 for the last (%(default)s)"
    )
    parser.add_argument(
        "--block", type=int, default=-1, help="block of the stage, likewise (%(default)s)"
    )
    parser.add_argument("--head", type=int, help="one attention head, from 0 (all, and their mean)")
    parser.add_argument(
        "--dpi", type=number(int, 1), default=200, help="dots per inch (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda:0, ... (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder with files")
    return parser.parse_args()


def as_arrays(maps: TokenMaps, block: BlockMaps) -> dict[str, np.ndarray]:
    """Collect the arrays of maps.npz: the chosen block's maps and the stages' image tokens."""
    names = ("broadcast", "aggregation", "tokens_read", "tokens_out", "local", "tokens", "bias")
    arrays = {name: getattr(block, name) for name in names if getattr(block, name) is not None}
    stages = {f"stage{i}": stage for i, stage in enumerate(maps.stages)}
    return dict(inputs=maps.inputs, token_size=np.array(maps.token_size), **arrays, **stages)


def main() -> None:
    args = parse_args()
    out = check_new_folder(args.out, args.overwrite)
    with contextlib.redirect_stdout(sys.stderr):  # messages of imported packages
        model = load_model(load_config(args), args.checkpoint, args.device)
    backbone = find_backbone(model)
    place = select_block(backbone, args.stage, args.block)
    maps = inspect_tokens(model, args.image)
    (block,) = [b for b in maps.blocks if (b.stage, b.block) == place]
    heads = block.broadcast.shape[1]
    if args.head is not None and not 0 <= args.head < heads:
        raise InputError(f"--head is {args.head}; {block.name} has heads 0 to {heads - 1}.")
    figures = all_figures(maps, block, picture_of(model, maps.inputs[0]), args.head)
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        draw().savefig(out / f"{name}.png", dpi=args.dpi)
    np.savez_compressed(out / "maps.npz", **as_arrays(maps, block))
    print(f"{block.name}: {', '.join(f'{name}.png' for name in figures)} and maps.npz in {out}")


if __name__ == "__main__":
    run_tool(main)
