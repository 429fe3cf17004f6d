"""Write a small synthetic data set in the COCO, ADE20K or ImageNet layout."""

import argparse
import sys
from pathlib import Path
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("out", help="directory: missing, empty, or with the same set in it")
    parser.add_argument("--layout", default="coco", help="coco, ade20k or imagenet")
    parser.add_argument("--num-train", type=int, default=600, help="number of train images")
    parser.add_argument("--num-val", type=int, default=100, help="number of val images")
    parser.add_argument("--seed", type=int, default=0, help="0 or more")
    parser.add_argument(
        "--size-range",
        type=int,
        nargs=2,
        default=[192, 288],
        metavar=("LOW", "HIGH"),
        help="height and width of the images in px",
    )
    return parser.parse_args()


def summary(args: argparse.Namespace, result: dict[str, Any], groups: list[tuple]) -> str:
    """Return one line on the set; `groups` are the names counted together."""
    counts = result["counts"]
    parts = [", ".join(f"{counts[name]} {name}" for name in group) for group in groups]
    state = "written to" if result["written"] else "already complete, nothing done, in"
    return f"{args.layout} scenes {state} {args.out}: " + "; ".join(parts)


def main() -> None:
    """Write the set and print its summary; on a wrong argument exit with status 2."""
    args = parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    try:
        from lab import scene_writers, scenes

        result = scene_writers.write_scenes(**vars(args))
    except (ImportError, OSError, ValueError) as error:
        print(f"make_scenes: {error}", file=sys.stderr)
        sys.exit(2)
    groups = [("images",), scenes.CLASSES, scene_writers.BUCKETS, ("crowds",)]
    print(summary(args, result, groups))


if __name__ == "__main__":
    main()
