"""How fast are the backbones, beside their peers and beside what the machine can do?

    python benchmarks/speed.py                                     # 224 x 224, one image
    python benchmarks/speed.py --batch 16 --variants eager compiled onnx
    python benchmarks/speed.py --step training --batch 8
    python benchmarks/speed.py --dense --shape 512                 # maps of all stages, no classes
    python benchmarks/speed.py --dense --shape 800 1333
    python benchmarks/speed.py --device cuda --dtype bf16 --batch 64 --variants eager compiled

All candidates are timed in turn, in one run; what is faster than dualtoken_s is listed first. Times
are ratios to dualtoken_s run eagerly, median and quartiles of the ratios within a round; on a GPU
also milliseconds. The limit is the best of square matrix products in the same rounds. Writes a CSV
and a plot.
"""

import argparse
import gc
import sys
import warnings
from collections.abc import Callable
from statistics import median

import torch
from suite.machine import copy_candidate, describe, gemms, limits
from suite.peers import Peer, choose, randomise
from suite.results import keep, new_folder, plot_ratios, show
from suite.timing import alternate, ratio
from suite.variants import DTYPES, VARIANTS, inference, training_step

from mmdualtoken.cli import run_tool
from mmdualtoken.export.breakdown import count_macs, count_parameters

REFERENCE = "dualtoken_s"
PUBLISHED = "ImageNet top-1 % (published, not reproduced here)"
MIB = 1 << 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", choices=("inference", "training"), default="inference")
    parser.add_argument("--dense", action="store_true", help="maps of all stages, no classifier")
    parser.add_argument(
        "--shape", type=int, nargs="+", default=[224], help="H W in px, or one side"
    )
    parser.add_argument("--batch", type=int, default=1, help="images per batch")
    parser.add_argument("--models", nargs="+", help="some of the models; dualtoken_s always runs")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"])
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16, fp16: autocast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/speed_TIME)")
    args = parser.parse_args()
    if len(args.shape) > 2 or min(*args.shape, args.batch, args.rounds) < 1:
        parser.error("--shape takes one or two numbers, --shape, --batch and --rounds from 1 on")
    args.shape = (args.shape[0], args.shape[-1])
    return args


def build(peer: Peer, args: argparse.Namespace) -> torch.nn.Module:
    """The peer's model on the device, with weights that are not degenerate."""
    torch.manual_seed(0)
    model = peer.dense() if args.dense else peer.classifier()
    return randomise(model).to(args.device)


def allocated(device: torch.device) -> int:
    """Bytes of GPU memory in use; 0 on the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_memory(function: Callable, device: torch.device, before: int) -> float | None:
    """MiB of GPU memory at the peak of a call; None on the CPU (see benchmarks/growth.py).

    Args:
        function: the call.
        device: where it runs.
        before: bytes that were in use before its model was made: those of other models.
    """
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / MIB


def prepare(peers: list[Peer], args: argparse.Namespace) -> tuple[dict, list[dict], list[str]]:
    """Functions to time by name, what is known of each, and what could not be run and why."""
    device = torch.device(args.device)
    images = torch.randn(args.batch, 3, *args.shape, device=device)
    make = inference if args.step == "inference" else training_step
    functions, rows, failed = {}, [], []
    for peer in peers:
        for variant in args.variants:
            before = allocated(device)
            try:
                model = build(peer, args)
                macs = count_macs(model.eval(), images[:1])
                function = make(model, images, variant, args.dtype)
                function()
            except RuntimeError as error:  # a fixed resolution, or memory
                failed.append(f"{peer.name}, {variant}: {str(error).splitlines()[0]}")
                continue
            name = peer.name if variant == "eager" else f"{peer.name} {variant}"
            functions[name] = function
            row = {"model": name, PUBLISHED: peer.accuracy, "at px": peer.image_size}
            row |= {"params M": count_parameters(model) / 1e6, "GMACs": macs / 1e9}
            rows.append(row | {"peak MiB": peak_memory(function, device, before)})
            gc.collect()
            print(f"ready: {name}", file=sys.stderr)
    return functions, rows, failed


def measure(functions: dict, rows: list[dict], args: argparse.Namespace) -> tuple[list, list[str]]:
    """Time all, complete the rows, fastest first; and notes on the machine's limits."""
    device = torch.device(args.device)
    products = gemms(device, DTYPES[args.dtype])
    copy, moved = copy_candidate(device)
    candidates = functions | {name: function for name, (function, _) in products.items()}
    seconds = alternate(candidates | {"copy": copy}, args.rounds, device)
    limit = limits(seconds, {name: macs for name, (_, macs) in products.items()})
    passes = 3 if args.step == "training" else 1  # forward, and twice as much backward
    for row in rows:
        taken = seconds[row["model"]]
        row["time"], row["time low"], row["time high"] = ratio(taken, seconds[REFERENCE])
        work = passes * row["GMACs"] * 1e9 * args.batch
        ideal = [work / rate for rate in limit]
        row["of limit"] = ratio(ideal, taken)[0]
        if device.type == "cuda":
            row["ms"] = 1000 * median(taken)
            row["images/s"] = args.batch / median(taken)
    rows.sort(key=lambda row: row["time"])
    notes = [
        f"limit: {2e-9 * median(limit):.0f} GFLOP/s, best of {', '.join(products)}; "
        f"memory: {1e-9 * moved / median(seconds['copy']):.1f} GB/s, copying 256 MiB"
    ]
    return rows, notes


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.models and [REFERENCE, *(n for n in args.models if n != REFERENCE)]
    if "eager" not in args.variants:
        args.variants.insert(0, "eager")  # dualtoken_s as it is stands at 1
    device = torch.device(args.device)
    folder = new_folder("speed", args.out)
    functions, rows, failed = prepare(choose(names), args)
    rows, notes = measure(functions, rows, args)
    machine = describe(device) | {"limits": notes[0]}
    what = "dense backbone" if args.dense else "classifier"
    size = f"{args.batch} x 3 x {args.shape[0]} x {args.shape[1]}, {args.dtype}"
    notes += [f"not run: {line}" for line in failed] + [f"{k}: {v}" for k, v in machine.items()]
    title = f"time of one {args.step} step / dualtoken_s, {what}, {size}"
    show(f"{title} (fastest first)", rows, notes[1:])
    keep(folder, "speed", rows, machine | {"not run": "; ".join(failed) or "nothing"})
    plot_ratios(folder / "speed.png", rows, "time", title)
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
