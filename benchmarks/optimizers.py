"""What does a training step with Muon cost, beside one with AdamW, at each batch size?

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --device cuda --batches 2 16 128 --size 224

The classifier of 1000 classes: forward, backward, and the optimizer's step. Both optimizers take
turns in one process, each with a model of its own from the same seed.
"""

import argparse
import warnings

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from suite.machine import describe
from suite.results import keep, new_folder, show
from suite.timing import alternate, ratio

from mmdualtoken.cli import run_tool
from mmdualtoken.config_files import MUON, config_path
from mmdualtoken.export.measure import build_model


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--size", type=int, default=64, help="of the images, px (%(default)s)")
    parser.add_argument("--configs", nargs="+", default=["t", "s"], choices=["t", "s"])
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/optimizers_TIME)")
    return parser.parse_args()


def training_step(config: str, muon: bool, batch: int, args: argparse.Namespace):
    """A function that trains a classifier by one step on the same images."""
    cfg = Config.fromfile(config_path(config))
    init_default_scope(cfg.default_scope)
    if muon:
        cfg.optim_wrapper.optimizer = Config.fromfile(config_path(MUON)).muon
    torch.manual_seed(0)
    model = build_model(cfg).to(args.device).train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    images = torch.randn(batch, 3, args.size, args.size, device=args.device)
    labels = torch.arange(batch, device=args.device) % 1000

    def step():
        logits = model.head.fc(model.extract_feat(images)[-1])
        optim_wrapper.update_params(torch.nn.functional.cross_entropy(logits, labels))

    return step


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    folder = new_folder("optimizers", args.out)
    device = torch.device(args.device)
    machine = describe(device)
    rows = []
    for name in args.configs:
        for batch in args.batches:
            config = f"mmpretrain/dualtoken_{name}_mix_in1k.py"
            candidates = {
                "AdamW": training_step(config, False, batch, args),
                "Muon": training_step(config, True, batch, args),
            }
            seconds = alternate(candidates, args.rounds, device)
            keys = ("Muon / AdamW", "low", "high")
            times = ratio(seconds["Muon"], seconds["AdamW"])
            row = {"model": f"dualtoken_{name}", "batch": batch, "size": args.size}
            rows.append(row | dict(zip(keys, times, strict=True)))
    show("Time of a training step with Muon / with AdamW", rows, [])
    keep(folder, "optimizers", rows, machine)
    for key, value in machine.items():
        print(f"{key}: {value}")
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
