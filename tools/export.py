"""Export a model to ONNX, from images to results, or to torch.export's format.

One file serves all batch and image sizes. It is run on the CPU and compared with PyTorch at sizes
that the export has not seen, and kept only if both agree.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmdualtoken.cli import add_config_arguments, load_config, run_tool
from mmdualtoken.config_files import scope_of
from mmdualtoken.errors import InputError
from mmdualtoken.export import raw_outputs as export
from mmdualtoken.export import runner
from mmdualtoken.export.breakdown import shape_of_config
from mmdualtoken.export.compare import MARGIN, compare, packed, photos
from mmdualtoken.export.deployed import DeployedModel
from mmdualtoken.export.formats import FORMATS, RUNTIMES
from mmdualtoken.export.measure import build_model
from mmdualtoken.export.results import Results, pipeline_steps
from mmdualtoken.files import check_file
from mmdualtoken.inference import load_model
from mmdualtoken.inference.model import complete_meta
from mmdualtoken.weights.checkpoints import UNSAFE_FLAG, UNSAFE_TEXT


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file; 'none' for random weights, to try")
    parser.add_argument("out", metavar="FILE", help="file to write: NAME.onnx or NAME.pt2")
    parser.add_argument("--backbone", action="store_true", help="the backbone alone")
    parser.add_argument(
        "--raw-outputs",
        action="store_true",
        help="the network's own outputs, logits or a head's maps, as in .pt2 files; no results",
    )
    parser.add_argument(
        "--raw", action="store_true", help="take pixels, and normalise them in the file"
    )
    parser.add_argument(
        "--with-runner",
        action="store_true",
        help="write runner.py, which runs it, next to the file",
    )
    parser.add_argument(
        "--check-images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="photos to compare results on (the first of the config's test set)",
    )
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
        help="runtime that checks and times the .onnx file (%(default)s)",
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="timed runs, 0 for none (%(default)s)"
    )
    parser.add_argument(UNSAFE_FLAG, action="store_true", help=f"DANGEROUS: {UNSAFE_TEXT}")
    return parser.parse_args()


def format_of(args: argparse.Namespace) -> type:
    """The format of the file, with what runs it."""
    suffix = Path(args.out).suffix
    return RUNTIMES[args.runtime] if suffix == ".onnx" else FORMATS[suffix]


def ends_in_results(args: argparse.Namespace) -> bool:
    """Whether the file is to end in what the toolbox's predict returns."""
    return not (args.backbone or args.raw_outputs or args.out.endswith(".pt2"))


def check_arguments(args: argparse.Namespace) -> None:
    """Check what can be wrong before anything is built."""
    out = Path(args.out)
    if out.suffix not in FORMATS:
        raise InputError(f"{out}: the ending says the format; allowed: {', '.join(FORMATS)}.")
    if args.int8 and out.suffix != ".onnx":
        raise InputError(f"{out}: --int8 is for .onnx files alone.")
    for flag in ("raw", "with_runner", "check_images"):
        if getattr(args, flag) and not ends_in_results(args):
            raise InputError(
                f"--{flag.replace('_', '-')} is for .onnx files that end in results, without "
                "--backbone and --raw-outputs."
            )
    runner_file = out.absolute().parent / "runner.py"
    if args.with_runner and runner_file.exists() and not args.overwrite:
        raise InputError(f"{runner_file} exists already. Give another folder, or --overwrite.")
    if args.runtime != "onnxruntime" and out.suffix != ".onnx":
        raise InputError(f"{out}: --runtime {args.runtime} is for .onnx files alone.")
    if out.is_dir() or (out.exists() and not args.overwrite):
        raise InputError(f"{out} exists already. Give another name, or --overwrite.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: the folder does not exist. Create it first.")
    if not os.access(out.absolute().parent, os.W_OK):
        raise InputError(f"{out}: the folder cannot be written to. Name a file in another one.")
    if args.checkpoint != "none":
        hint = "'none' exports random weights, to try."
        check_file(args.checkpoint, "Checkpoint", hint, url=True)
    format_of(args).check()


def load(cfg: Config, checkpoint: str) -> tuple[nn.Module, list[str]]:
    """The model on the CPU, and the names of its classes, numbers where they are not known."""
    if checkpoint == "none":
        dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
        model = revert_sync_batchnorm(build_model(cfg))
        count = max(getattr(module, "num_classes", None) or 0 for module in model.modules())
        return model, list(complete_meta(dataset.get("metainfo") or {}, count)["classes"])
    model = load_model(cfg, checkpoint)
    return model, list(model.dataset_meta["classes"])


def say(step: str) -> None:
    """Which step is running: each takes up to minutes on a busy machine."""
    print(f"{step} ...", file=sys.stderr, flush=True)


def check_raw_outputs(
    eager: export.RawOutputs, file_format: type, file: Path, strict: bool
) -> dict:
    """Compare the network's own outputs: lines to print, by what they say.

    Raises:
        InputError: they differ, and `strict`.
    """
    run = file_format.load(file, torch.get_num_threads())
    found = {size: export.deviation(eager, run, size) for size in export.checked_sizes(eager)}
    if strict and not all(value <= export.TOLERANCE for value in found.values()):
        raise InputError(
            f"{file.name} was not written: its outputs differ from PyTorch's, relative to the "
            f"largest value by {found} at (batch, height, width); allowed is "
            f"{export.TOLERANCE}. Try --no-deploy, and report it."
        )
    return {
        f"{b}x{eager.channels}x{h}x{w}": f"differs from PyTorch by {v:.1e} of the largest value"
        for (b, h, w), v in found.items()
    }


def check_results(model: nn.Module, cfg: Config, images: list, file: Path, strict: bool) -> dict:
    """Compare results with those of the toolbox in every runtime that is installed.

    Raises:
        InputError: they differ, and `strict`.
    """
    lines = {}
    for name, file_format in RUNTIMES.items():
        try:
            file_format.check()
        except InputError:  # not installed
            continue
        found = compare(model, DeployedModel(file, name, margin=MARGIN), cfg, images)
        if strict and not found.passed:
            raise InputError(
                f"{file.name} was not written: what {file_format.runtime} finds on photos differs "
                f"from PyTorch's results ({found}). Try --no-deploy, or --raw-outputs, and report "
                "it."
            )
        lines[file_format.runtime] = str(found)
    return lines


def main() -> None:
    args = parse_args()
    check_arguments(args)
    out = Path(args.out)
    file_format = format_of(args)
    with contextlib.redirect_stdout(sys.stderr):  # what imported packages have to say
        cfg = load_config(args)
        scope = scope_of(cfg)
        model, classes = load(cfg, args.checkpoint)
        if ends_in_results(args):
            eager = Results(model, cfg, args.raw).eval()
            images = photos(cfg, args.check_images, eager.channels)
            if args.with_runner:
                pipeline_steps(cfg)
        else:
            eager = export.RawOutputs(model, scope, args.backbone).eval()
        metadata, names = export.describe(cfg, eager, classes), eager.names()

        def check(file: Path, strict: bool) -> dict:
            if ends_in_results(args):
                return check_results(model, cfg, images, file, strict)
            return check_raw_outputs(eager, file_format, file, strict)

        say("Recording the graph")
        program = export.record(eager, not args.no_deploy, file_format.sizes)
        # Elsewhere until it is checked; beside the file, so that moving it is one step.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.absolute().parent) as folder:
            unchecked = Path(folder) / out.name
            say("Writing the file")
            file_format.save(program, names, metadata, unchecked)
            say("Comparing the file with PyTorch")
            found = check(unchecked, strict=True)
            if args.int8:
                file_format.quantize(unchecked)
                found = check(unchecked, strict=False)
            os.replace(unchecked, out)
        if args.with_runner:
            shutil.copyfile(runner.__file__, out.absolute().parent / "runner.py")
    print(f"{out}: {metadata['outputs']}.")
    print(f"Outputs: {', '.join(names)}")
    if args.int8:
        print("Matrix products are in 8 bits: compare the accuracy on your data.")
    for what, text in found.items():
        print(f"{what}: {text}")
    if any(text.startswith("0 objects") for text in found.values()):
        print("No object was found on the photos: name some that have objects by --check-images.")
    if args.rounds > 0:
        size, _ = shape_of_config(cfg)
        threads = torch.get_num_threads()
        if ends_in_results(args):
            batch = [cv2.resize(images[0], size[::-1])]
            deployed = DeployedModel(out, args.runtime, threads)
            calls = [lambda m=m: m.test_step(packed(batch, scope)) for m in (deployed, model)]
        else:
            image = torch.randn(1, eager.channels, *size)
            run = file_format.load(out, threads)
            calls = [lambda f=f: f(image) for f in (run, eager)]
        ratio = export.speed_ratio(*calls, args.rounds)
        print(
            f"1x{eager.channels}x{size[0]}x{size[1]}, {threads} thread{'s' * (threads > 1)}: "
            f"{file_format.runtime} takes {ratio:.2f} of PyTorch's eager time "
            f"(median of {args.rounds}, in turn)"
        )


if __name__ == "__main__":
    run_tool(main)
