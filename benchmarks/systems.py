"""How fast are whole detectors and segmentors with our backbone, beside those with others?

    python benchmarks/systems.py
    python benchmarks/systems.py --system maskrcnn --rounds 11
    python benchmarks/systems.py --device cuda --dtype fp16

One image per step through backbone, neck and heads of the real configs: 800 x 1333 pixels for
detectors, with 1000 box and 100 mask RoIs, 512 x 512 for segmentors. NMS and the pasting of masks
are left out: they do not depend on the backbone, and random weights find random numbers of objects.
The models of a system are timed in turn, in one run; times are ratios to DualToken-ViT-S.
"""

import argparse
import warnings
from statistics import median

import torch
from mmengine.config import Config
from suite.machine import describe
from suite.peers import randomise
from suite.results import keep, new_folder, plot_ratios, show
from suite.timing import alternate, ratio
from suite.variants import DTYPES, autocast
from torch import nn

from mmdualtoken.cli import find_config, run_tool
from mmdualtoken.export.measure import BOX_ROIS, MASK_ROIS, build_model, measure

#: Configs by system and name of the backbone; the first is the one that others are compared with.
SYSTEMS = {
    "maskrcnn": {
        "dualtoken_s": "mmdet/maskrcnn_dualtoken_s_1x.py",
        "dualtoken_t": "mmdet/maskrcnn_dualtoken_t_1x.py",
        "resnet18": "mmdet/maskrcnn_r18_1x.py",
        "resnet50": "mmdet/maskrcnn_r50_1x.py",
        "mobilenet_v2": "mmdet/maskrcnn_mobilenet_v2_1x.py",
    },
    "retinanet": {
        "dualtoken_s": "mmdet/retinanet_dualtoken_s_1x.py",
        "dualtoken_t": "mmdet/retinanet_dualtoken_t_1x.py",
        "resnet18": "mmdet/retinanet_r18_1x.py",
        "resnet50": "mmdet/retinanet_r50_1x.py",
        "mobilenet_v2": "mmdet/retinanet_mobilenet_v2_1x.py",
    },
    "deeplabv3": {
        "dualtoken_s": "mmseg/deeplabv3_dualtoken_s_160k.py",
        "dualtoken_t": "mmseg/deeplabv3_dualtoken_t_160k.py",
        "resnet18": "mmseg/deeplabv3_r18_160k.py",
        "resnet50": "mmseg/deeplabv3_r50_160k.py",
        "mobilenet_v2": "mmseg/deeplabv3_mobilenet_v2_160k.py",
    },
    "pspnet": {
        "dualtoken_s": "mmseg/pspnet_dualtoken_s_160k.py",
        "dualtoken_t": "mmseg/pspnet_dualtoken_t_160k.py",
        "resnet18": "mmseg/pspnet_r18_160k.py",
        "resnet50": "mmseg/pspnet_r50_160k.py",
        "mobilenet_v2": "mmseg/pspnet_mobilenet_v2_160k.py",
    },
}
SHAPES = {"mmdet": (800, 1333), "mmseg": (512, 512)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16, fp16: autocast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, metavar=("H", "W"), help="in px")
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/systems_TIME)")
    return parser.parse_args()


def detect(model: nn.Module, maps: tuple[torch.Tensor, ...], shape: tuple[int, int]) -> object:
    """Heads of a detector; with RoIs, the same 1000 boxes and 100 masks for every backbone."""
    if not hasattr(model, "roi_head"):
        return model.bbox_head(maps)
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(BOX_ROIS, 2, 2, generator=generator).sort(dim=1).values
    corners = corners * torch.tensor([shape[1], shape[0]])
    rois = torch.cat([torch.zeros(BOX_ROIS, 1), corners.flatten(1)], dim=1).to(maps[0])
    boxes = model.roi_head._bbox_forward(maps, rois)
    return model.rpn_head(maps), boxes, model.roi_head._mask_forward(maps, rois[:MASK_ROIS])


def step_of(cfg: Config, args: argparse.Namespace):
    """A function that takes one normalised image through the model."""
    torch.manual_seed(0)
    model = randomise(build_model(cfg)).to(args.device)
    shape = tuple(args.shape or SHAPES[cfg.default_scope])
    image = torch.randn(1, 3, *shape, device=args.device)

    def run():
        with torch.inference_mode(), autocast(image.device, args.dtype):
            if cfg.default_scope == "mmseg":
                return model(image, mode="tensor")
            return detect(model, model.extract_feat(image), shape)

    return run


def compare(system: str, args: argparse.Namespace) -> list[dict]:
    """One row per backbone, fastest first."""
    configs = {n: Config.fromfile(find_config(path)) for n, path in SYSTEMS[system].items()}
    functions = {name: step_of(cfg, args) for name, cfg in configs.items()}
    device = torch.device(args.device)
    seconds = alternate(functions, args.rounds, device, warmup=1)
    reference, rows = next(iter(configs)), []
    for name, cfg in configs.items():
        cost = measure(cfg, tuple(args.shape or SHAPES[cfg.default_scope]))
        row = {"system": system, "model": name, "params M": cost.params / 1e6}
        row["GMACs"] = cost.macs / 1e9
        row["time"], row["time low"], row["time high"] = ratio(seconds[name], seconds[reference])
        if device.type == "cuda":
            row["images/s"] = 1 / median(seconds[name])
        rows.append(row)
    return sorted(rows, key=lambda row: row["time"])


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    machine = describe(torch.device(args.device))
    folder = new_folder("systems", args.out)
    rows = []
    for system in args.system:
        table = compare(system, args)
        title = f"{system}: time of one image / dualtoken_s, {args.dtype}"
        show(f"{title} (fastest first)", table, [])
        plot_ratios(folder / f"{system}.png", table, "time", title)
        rows += table
        keep(folder, "systems", rows, machine)
    for key, value in machine.items():
        print(f"{key}: {value}")
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
