"""Export a model to ONNX or torch.export: one file for every batch size, height and width.

The file is compared with PyTorch at three sizes that the export has not seen, and kept only if
the outputs agree; ONNX files run in ONNX Runtime for it, on the CPU.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner.checkpoint import _load_checkpoint, load_state_dict
from torch import nn

from mmdualtoken.engine import export
from mmdualtoken.engine.cli import load_config, run_tool
from mmdualtoken.engine.errors import InputError
from mmdualtoken.report.breakdown import shape_of_config
from mmdualtoken.report.measure import build_model, check_scope

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file, relative to the working directory or project")
    parser.add_argument("checkpoint", help="checkpoint file; 'none' for random weights, to try")
    parser.add_argument("out", help="file to write: .onnx or .pt2, which sets the format")
    parser.add_argument("--format", choices=SUFFIXES, help="format of the file (by its name)")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--no-deploy", action="store_true", help="do not fuse layers before")
    parser.add_argument(
        "--rounds", type=int, default=10, help="timed runs beside PyTorch, 0 for none (10)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help="override config values: key=value, nested keys as a.b=value, lists as key=[a,b]",
    )
    parser.set_defaults(launcher="none", work_dir=None, local_rank=0)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is built, and set the format."""
    out = Path(args.out)
    known = {suffix: name for name, suffix in SUFFIXES.items()}
    if args.format is None:
        args.format = known.get(out.suffix)
    if args.format is None or out.suffix != SUFFIXES[args.format]:
        raise InputError(f"{out}: name it .onnx (ONNX) or .pt2 (torch.export), as the format is.")
    if out.is_dir() or (out.exists() and not args.overwrite):
        raise InputError(f"{out} exists already. Give another name, or --overwrite.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder does not exist. Create it first.")
    if args.checkpoint != "none" and not Path(args.checkpoint).is_file():
        raise InputError(
            f"Checkpoint {args.checkpoint} does not exist (working directory: {Path.cwd()}). "
            "'none' exports random weights, to try."
        )
    if args.format == "onnx":
        export.check_packages()


def load_weights(model: nn.Module, filename: str) -> list[str] | None:
    """Load a checkpoint and return the classes it names.

    Raises:
        InputError: it does not fit the config.
    """
    checkpoint = _load_checkpoint(filename, map_location="cpu")
    state = checkpoint.get("state_dict", checkpoint)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        load_state_dict(model, state, strict=True)
    except RuntimeError as error:
        lines = " ".join(line.strip() for line in str(error).splitlines()[:6])
        raise InputError(f"Checkpoint {filename} does not fit the config: {lines}") from error
    return (checkpoint.get("meta") or {}).get("dataset_meta", {}).get("classes")


def classes_of_config(cfg: Config) -> list[str] | None:
    """The classes that the test data set names itself."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    return (dataset.get("metainfo") or {}).get("classes")


def main() -> None:
    args = parse_args()
    check_arguments(args)
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        cfg = load_config(args)
        model = build_model(cfg)
        classes = None if args.checkpoint == "none" else load_weights(model, args.checkpoint)
        eager = export.RawOutputs(model, check_scope(cfg), args.backbone).eval()
        metadata = export.describe(cfg, eager, classes or classes_of_config(cfg))
        with torch.no_grad():
            names = list(eager.named(torch.zeros(1, 3, *export.EXAMPLE[1:])))
        program = export.record(eager, deploy=not args.no_deploy)
        # Under another name until it is checked.
        partial = Path(args.out).with_suffix(f".partial{SUFFIXES[args.format]}")
        try:
            if args.format == "onnx":
                export.save_onnx(program, names, metadata, partial)
                run = export.load_onnx(partial, torch.get_num_threads())
            else:
                export.save_torch(program, metadata, partial)
                run = export.load_torch(partial)
            found = {size: export.deviation(eager, run, size) for size in export.CHECKED}
            if not all(value <= export.TOLERANCE for value in found.values()):
                raise InputError(
                    f"{args.out} was not written: its outputs differ from PyTorch's, relative to "
                    f"the largest value by {found} at (batch, height, width); allowed is "
                    f"{export.TOLERANCE}. Try --no-deploy, and report it."
                )
            os.replace(partial, args.out)
        finally:
            partial.unlink(missing_ok=True)
    runtime = "ONNX Runtime" if args.format == "onnx" else "torch.export"
    print(f"{args.out}: {metadata['outputs']}.")
    print(f"Outputs: {', '.join(names)}")
    for (b, h, w), value in found.items():
        print(f"{b}x3x{h}x{w}: {runtime} differs from PyTorch by {value:.1e} of the largest value")
    if args.rounds > 0:
        size, _ = shape_of_config(cfg)
        ratio = export.speed_ratio(eager, run, size, args.rounds)
        print(
            f"1x3x{size[0]}x{size[1]}, {torch.get_num_threads()} threads: {runtime} takes "
            f"{ratio:.2f} of PyTorch's eager time (median of {args.rounds}, in turn)"
        )


if __name__ == "__main__":
    run_tool(main)
