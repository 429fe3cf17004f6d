"""How do time and memory of the backbones grow with the pixels?

    python benchmarks/growth.py
    python benchmarks/growth.py --models dualtoken_s dualtoken_t resnet50 --sizes 224 448 896
    python benchmarks/growth.py --device cuda --dtype bf16 --step training

Dense backbones, one image, from 224 x 224 to 1600 x 1600 pixels and at 800 x 1333. All sizes of a
model are timed in turn, in one run. Prints each size's time and peak memory beyond the weights in
multiples of those at 224 x 224, per multiple of the pixels (at most 1 is linear or better), and the
exponent e of a fit time ~ pixels^e. With --with-cp also time and memory with blocks recomputed in
the backward pass, in multiples of those without.
"""

import argparse
import math
import warnings
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from statistics import median

import matplotlib
import torch
from suite.machine import describe
from suite.peers import choose, randomise
from suite.results import keep, new_folder, show
from suite.timing import alternate, ratio
from suite.variants import DTYPES, inference, training_step
from torch.profiler import ProfilerActivity, profile

from mmdualtoken.cli import run_tool
from mmdualtoken.errors import InputError

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 the backend comes first

SIZES = ("224", "320", "448", "640", "896", "800x1333", "1280", "1600")
BASE = "224"
MIB = 1 << 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["dualtoken_s", "dualtoken_t"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="N or HxW; 224 is always there")
    parser.add_argument("--step", choices=("inference", "training"), default="inference")
    parser.add_argument(
        "--with-cp", action="store_true", help="ours, in training: also recomputing"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16, fp16: autocast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/growth_TIME)")
    return parser.parse_args()


def shape_of(size: str) -> tuple[int, int]:
    """'224' or '800x1333' as (height, width)."""
    try:
        numbers = [int(number) for number in size.split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 32:
        raise InputError(f"--sizes {size}: N or HxW with numbers from 32 on, such as 800x1333")
    return numbers[0], numbers[-1]


def step_of(name: str, size: str, args: argparse.Namespace, with_cp: bool = False):
    """The function that makes one step of the model at this size."""
    torch.manual_seed(0)
    model = randomise(choose([name])[0].dense()).to(args.device)
    if with_cp:
        for stage in model.stages:
            stage.with_cp = True
    images = torch.randn(1, 3, *shape_of(size), device=args.device)
    make = inference if args.step == "inference" else training_step
    return make(model, images, "eager", args.dtype)


def peak_memory(function: Callable[[], object], device: torch.device) -> float:
    """MiB at the peak of one call, beyond what is held before it: tensors, as torch allocates them.

    The second call is looked at: the first also makes gradients' and optimizers' buffers.
    """
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held) / MIB


def exponent(pixels: list[float], values: list[float]) -> float:
    """Slope of log(values) over log(pixels), by least squares."""
    xs, ys = [math.log(p) for p in pixels], [math.log(v) for v in values]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - mx) ** 2 for x in xs)


def measure(name: str, sizes: list[str], args: argparse.Namespace) -> list[dict]:
    """One row per size."""
    functions = {size: step_of(name, size, args) for size in sizes}
    saving = {size: step_of(name, size, args, True) for size in sizes if args.with_cp}
    device = torch.device(args.device)
    candidates = functions | {f"{size} with_cp": saving[size] for size in saving}
    seconds = alternate(candidates, args.rounds, device, warmup=1)
    base = math.prod(shape_of(BASE))
    rows, base_memory = [], None
    for size in sizes:
        pixels = math.prod(shape_of(size)) / base
        times, low, high = ratio(seconds[size], seconds[BASE])
        peak = peak_memory(functions[size], device)
        base_memory = base_memory or peak
        row = {"model": name, "size": size, "pixels": pixels, "time": times}
        row |= {"time low": low, "time high": high, "time / pixels": times / pixels}
        row |= {"MiB": peak, "memory / pixels": peak / base_memory / pixels}
        if args.with_cp:
            row["with_cp time"] = ratio(seconds[f"{size} with_cp"], seconds[size])[0]
            row["with_cp memory"] = peak_memory(saving[size], device) / peak
        if device.type == "cuda":
            row["ms"] = 1000 * median(seconds[size])
        rows.append(row)
    return rows


def fits(rows: list[dict]) -> str:
    """The exponents of one model's rows, in words."""
    pixels = [row["pixels"] for row in rows]
    time, peak = (exponent(pixels, [row[key] for row in rows]) for key in ("time", "MiB"))
    return f"{rows[0]['model']}: time ~ pixels^{time:.3f}, memory ~ pixels^{peak:.3f}"


def plot(file: Path, tables: list[list[dict]]) -> None:
    """Time and memory over pixels, both in multiples of those at 224 x 224."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for rows in tables:
        pixels = [row["pixels"] for row in rows]
        memories = [row["MiB"] / rows[0]["MiB"] for row in rows]
        for panel, values in zip(axes, ([r["time"] for r in rows], memories), strict=True):
            panel.loglog(pixels, values, "o-", label=rows[0]["model"])
    for panel, title in zip(axes, ("time", "peak memory"), strict=True):
        ends = [min(panel.get_xlim()[0], 1), panel.get_xlim()[1]]
        panel.plot(ends, ends, "k:", linewidth=1, label="linear")
        panel.set(xlabel="pixels / 224²", ylabel=f"{title} / that at 224²")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    choose(args.models)  # unknown names: before the work
    wanted = {BASE, *args.sizes}
    sizes = sorted(wanted, key=lambda size: math.prod(shape_of(size)))
    if args.with_cp and not all(name.startswith("dualtoken") for name in args.models):
        raise InputError(f"--with-cp --models {' '.join(args.models)}: ours alone have it")
    if args.with_cp and args.step != "training":
        raise InputError("--with-cp: nothing is recomputed without gradients; add --step training")
    folder = new_folder("growth", args.out)
    tables = [measure(name, sizes, args) for name in args.models]
    rows = [row for table in tables for row in table]
    machine = describe(torch.device(args.device)) | {"fits": "; ".join(map(fits, tables))}
    title = f"growth of one {args.step} step, dense backbone, one image, {args.dtype}"
    show(title, rows, [f"{k}: {v}" for k, v in machine.items()])
    keep(folder, "growth", rows, machine)
    plot(folder / "growth.png", tables)
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
