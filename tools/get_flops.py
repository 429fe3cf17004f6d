"""Parameters and multiply-accumulates (the field's FLOPs) of a config's model, part by part.

No data set and no checkpoint is needed. Convolutions, matrix products and attention are counted,
attention alike on fused and plain paths; operators that are not counted are listed.
"""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from mmdualtoken.cli import add_config_arguments, load_config, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.export.breakdown import Breakdown, break_down, shape_of_config
from mmdualtoken.files import check_new_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        metavar="N",
        help="height and width of the image, or one side of a square (the config's test size)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this new file")
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is built."""
    if args.shape and (len(args.shape) > 2 or min(args.shape) < 1):
        raise InputError(
            f"--shape {' '.join(map(str, args.shape))}: give height and width, or one side of a "
            "square, in pixels, such as --shape 800 1280 or --shape 224."
        )
    if args.json is not None:
        check_new_file(args.json, "--json")


def show(result: Breakdown, source: str) -> None:
    """Print the table of parts, the operators that are not counted, and the remarks."""
    h, w = result.size
    table = Table(title=f"One image of {h}x{w} ({source})")
    table.add_column("Part", no_wrap=True)
    for column in ("Params, M", "%", "MACs, G", "%"):
        table.add_column(column, justify="right")
    for part in result.parts:
        table.add_row(
            part.name,
            f"{part.params / 1e6:.4f}",
            f"{100 * part.params / result.params:.1f}",
            f"{part.macs / 1e9:.4f}",
            f"{100 * part.macs / max(result.macs, 1):.1f}",
        )
    table.add_section()
    table.add_row("all", f"{result.params / 1e6:.4f}", "", f"{result.macs / 1e9:.4f}", "")
    Console().print(table)
    met = ", ".join(f"{name} x{number}" for name, number in result.uncounted.items())
    print(f"Not counted: {met or 'nothing'}")
    for remark in result.remarks:
        print(f"Note: {remark}.")


def main() -> None:
    args = parse_args()
    check_arguments(args)
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        cfg = load_config(args)
        if args.shape:
            size, source = (args.shape[0], args.shape[-1]), "as asked for"
        else:
            size, source = shape_of_config(cfg)
        result = break_down(cfg, size)
    show(result, source)
    if args.json:
        figures = dict(config=args.config, params=result.params, macs=result.macs, **asdict(result))
        with open(args.json, "x", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
        print(f"Figures: {args.json}")


if __name__ == "__main__":
    run_tool(main)
