"""See what the pipeline feeds the model: images after augmentation with their labels drawn.

Works with configs of mmdet, mmseg and mmpretrain. Writes a picture for each sample, titled with
file name and size, and contact_sheet.png with all of them. Exit status: 0 if all was shown, 1 if
some sample could not be loaded, 2 if arguments, config or data are wrong.
"""

import argparse
import contextlib
import sys
from pathlib import Path

import numpy as np
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.progress import track

from mmdualtoken.cli import add_config_arguments, load_config, number, run_tool
from mmdualtoken.files import check_new_folder
from mmdualtoken.inference.browse import Browser, build_dataset, contact_sheet, titled


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the pictures")
    parser.add_argument(
        "--split", choices=["train", "val", "test"], default="train", help="default: train"
    )
    parser.add_argument(
        "--num",
        type=number(int, 1),
        default=16,
        help="samples, spread over the data set (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the augmentations (%(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="write into a folder with files")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    out = check_new_folder(args.out, args.overwrite)
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        cfg = load_config(args)
        dataset = build_dataset(cfg, args.split)
        browser = Browser(cfg, dataset, args.split)
    set_random_seed(args.seed)
    count = min(args.num, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    console = Console(stderr=True)
    shown, problems = [], []
    out.mkdir(parents=True, exist_ok=True)
    for index in track(chosen, "Drawing", console=console, disable=not console.is_terminal):
        try:
            picture, path, title = browser.picture(int(index))
        except Exception as error:  # of many kinds, by loading step and transform
            problems.append(f"sample {index}: {type(error).__name__}: {error}")
            continue
        titled(picture, title).save(out / f"{index:06d}_{Path(path).stem}.png")
        shown.append((picture, title))
    if shown:
        contact_sheet(*zip(*shown, strict=True)).save(out / "contact_sheet.png")
    for problem in problems:
        print(f"not shown: {problem}", file=sys.stderr)
    print(f"{len(shown)} of {len(dataset)} samples of {args.split}: {out}/contact_sheet.png")
    if problems:
        print("python tools/check_data.py CONFIG checks every file.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_tool(main)
