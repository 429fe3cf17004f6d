"""Export a model to ONNX or to torch.export's format: one file for all batch and image sizes.

The file is run on the CPU and compared with PyTorch at three sizes that the export has not seen,
and kept only if the outputs agree.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmdualtoken.cli import add_config_arguments, load_config, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.export import outputs as export
from mmdualtoken.export.breakdown import shape_of_config
from mmdualtoken.export.formats import FORMATS, RUNTIMES
from mmdualtoken.export.measure import build_model, check_scope
from mmdualtoken.inference import load_model
from mmdualtoken.weights.checkpoints import UNSAFE_FLAG, UNSAFE_TEXT


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file; 'none' for random weights, to try")
    parser.add_argument("out", metavar="FILE", help="file to write: NAME.onnx or NAME.pt2")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--no-deploy", action="store_true", help="do not fuse layers before")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="matrix products in 8 bits (.onnx): faster, less exact; check it on your own data",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="onnxruntime",
        help="what runs the .onnx file to check and time it (%(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="timed runs beside PyTorch, 0 for none (%(default)s)"
    )
    parser.add_argument(UNSAFE_FLAG, action="store_true", help=f"DANGEROUS: {UNSAFE_TEXT}")
    return parser.parse_args()


def format_of(args: argparse.Namespace) -> type:
    """The format of the file, with what runs it."""
    suffix = Path(args.out).suffix
    return RUNTIMES[args.runtime] if suffix == ".onnx" else FORMATS[suffix]


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is built."""
    out = Path(args.out)
    if out.suffix not in FORMATS:
        raise InputError(f"{out}: the ending says the format; allowed: {', '.join(FORMATS)}.")
    if args.int8 and out.suffix != ".onnx":
        raise InputError(f"{out}: --int8 is for .onnx files alone.")
    if args.runtime != "onnxruntime" and out.suffix != ".onnx":
        raise InputError(f"{out}: --runtime {args.runtime} is for .onnx files alone.")
    if out.is_dir() or (out.exists() and not args.overwrite):
        raise InputError(f"{out} exists already. Give another name, or --overwrite.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder does not exist. Create it first.")
    if not os.access(out.absolute().parent, os.W_OK):
        raise InputError(f"{out}: the folder cannot be written to. Name a file in another one.")
    local = args.checkpoint != "none" and "://" not in args.checkpoint
    if local and not Path(args.checkpoint).is_file():
        raise InputError(
            f"Checkpoint {args.checkpoint} does not exist (working directory: {Path.cwd()}). "
            "'none' exports random weights, to try."
        )
    format_of(args).check()


def load(cfg: Config, checkpoint: str) -> tuple[nn.Module, list[str]]:
    """The model on the CPU, and the names of its classes as far as they are known."""
    if checkpoint == "none":
        dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
        model = revert_sync_batchnorm(build_model(cfg))
        return model, list((dataset.get("metainfo") or {}).get("classes") or ())
    model = load_model(cfg, checkpoint)
    return model, list(model.dataset_meta["classes"])


def say(step: str) -> None:
    """Which step is running: each takes up to minutes on a busy machine."""
    print(f"{step} ...", file=sys.stderr, flush=True)


def main() -> None:
    args = parse_args()
    check_arguments(args)
    out = Path(args.out)
    file_format = format_of(args)
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        cfg = load_config(args)
        scope = check_scope(cfg)
        model, classes = load(cfg, args.checkpoint)
        eager = export.RawOutputs(model, scope, args.backbone).eval()
        sizes = export.checked_sizes(eager)
        metadata = export.describe(cfg, eager, classes, sizes == export.CHECKED)
        with torch.no_grad():
            names = list(eager.named(torch.zeros(1, 3, *export.EXAMPLE[1:])))
        say("Recording the graph")
        program = export.record(eager, not args.no_deploy, file_format.sizes)
        # Elsewhere until it is checked; beside the file, so that moving it is one step.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.absolute().parent) as folder:
            unchecked = Path(folder) / out.name
            say("Writing the file")
            file_format.save(program, names, metadata, unchecked)
            say(f"Comparing {file_format.runtime} with PyTorch at {len(sizes)} sizes")
            run = file_format.load(unchecked, torch.get_num_threads())
            found = {size: export.deviation(eager, run, size) for size in sizes}
            if not all(value <= export.TOLERANCE for value in found.values()):
                raise InputError(
                    f"{out} was not written: its outputs differ from PyTorch's, relative to the "
                    f"largest value by {found} at (batch, height, width); allowed is "
                    f"{export.TOLERANCE}. Try --no-deploy, and report it."
                )
            if args.int8:
                file_format.quantize(unchecked)
                run = file_format.load(unchecked, torch.get_num_threads())
                found = {size: export.deviation(eager, run, size) for size in sizes}
            os.replace(unchecked, out)
    print(f"{out}: {metadata['outputs']}.")
    print(f"Outputs: {', '.join(names)}")
    if args.int8:
        print("Matrix products are in 8 bits: compare the accuracy on data of yours.")
    for (b, h, w), value in found.items():
        print(f"{b}x3x{h}x{w}: differs from PyTorch by {value:.1e} of the largest value")
    if args.rounds > 0:
        size, _ = shape_of_config(cfg)
        ratio = export.speed_ratio(eager, run, size, args.rounds)
        print(
            f"1x3x{size[0]}x{size[1]}, {torch.get_num_threads()} threads: {file_format.runtime} "
            f"takes {ratio:.2f} of PyTorch's eager time (median of {args.rounds}, in turn)"
        )


if __name__ == "__main__":
    run_tool(main)
