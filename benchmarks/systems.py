"""How fast are whole detectors and segmentors with our backbone, beside those with others?

    python benchmarks/systems.py
    python benchmarks/systems.py --system maskrcnn --rounds 11
    python benchmarks/systems.py --system rtmdet segformer --variants eager openvino openvino-int8
    python benchmarks/systems.py --device cuda --dtype fp16

One image per step through backbone, neck and heads of the real configs: 800 x 1333 pixels for the
paper's detectors, with 1000 box and 100 mask RoIs, 640 x 640 for RTMDet, 512 x 512 for segmentors.
NMS and the pasting of masks are left out: they do not depend on the backbone, and random weights
find random numbers of objects. Segmentors resize their logits to the image. The models of a system
are timed in turn, in one run. Times are ratios to the first of them, run eagerly: DualToken-ViT-S,
and -T for RTMDet and SegFormer.
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
from suite.variants import DTYPES, VARIANTS, inference
from torch import nn

from mmdualtoken.cli import find_config, read_config, run_tool
from mmdualtoken.errors import InputError
from mmdualtoken.export.breakdown import break_down
from mmdualtoken.export.measure import BOX_ROIS, MASK_ROIS, build_model
from mmdualtoken.export.raw_outputs import RawOutputs

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
    "rtmdet": {
        "dualtoken_t": "mmdet/rtmdet_dualtoken_t.py",
        "dualtoken_s": "mmdet/rtmdet_dualtoken_s.py",
        "cspnext_t": "mmdet/rtmdet_cspnext_t.py",
        "lightvit_t": "mmdet/rtmdet_lightvit_t.py",
        "mobilenet_v2": "mmdet/rtmdet_mobilenet_v2.py",
        "resnet18": "mmdet/rtmdet_r18.py",
    },
    "segformer": {
        "dualtoken_t": "mmseg/segformer_dualtoken_t_160k.py",
        "dualtoken_s": "mmseg/segformer_dualtoken_s_160k.py",
        "dualtoken_t_stride4": "mmseg/segformer_dualtoken_t_stride4_160k.py",
        "mit_b0": "mmseg/segformer_mit_b0_160k.py",
        "lightvit_t": "mmseg/segformer_lightvit_t_160k.py",
        "mobilenet_v2": "mmseg/segformer_mobilenet_v2_160k.py",
        "resnet18": "mmseg/segformer_r18_160k.py",
    },
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager"])
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="bf16, fp16: autocast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, metavar=("H", "W"), help="in px")
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/systems_TIME)")
    return parser.parse_args()


def shape_of(system: str, args: argparse.Namespace) -> tuple[int, int]:
    """Height and width of the images."""
    if args.shape:
        return tuple(args.shape)
    if system == "rtmdet":
        return 640, 640
    return (512, 512) if SYSTEMS[system]["dualtoken_s"].startswith("mmseg") else (800, 1333)


class TwoStages(nn.Module):
    """A detector of two stages up to the outputs of its heads.

    The same 1000 boxes and 100 masks for every backbone.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple:
        """(1, C, H, W) -> the outputs of the RPN, the box head and the mask head."""
        maps, head = self.model.extract_feat(images), self.model.roi_head
        generator = torch.Generator().manual_seed(0)
        corners = torch.rand(BOX_ROIS, 2, 2, generator=generator).sort(dim=1).values
        corners = corners * torch.tensor([images.shape[3], images.shape[2]])
        rois = torch.cat([torch.zeros(BOX_ROIS, 1), corners.flatten(1)], dim=1).to(maps[0])
        boxes = head._bbox_forward(maps, rois)
        return self.model.rpn_head(maps), boxes, head._mask_forward(maps, rois[:MASK_ROIS])


def step_of(cfg: Config, variant: str, shape: tuple[int, int], args: argparse.Namespace):
    """A function that takes one normalised image through the model.

    Raises:
        InputError: the variant is not for this model.
    """
    torch.manual_seed(0)
    model = randomise(build_model(cfg)).to(args.device)
    image = torch.randn(1, 3, *shape, device=args.device)
    if not hasattr(model, "roi_head"):
        whole = RawOutputs(model, cfg.default_scope)
    elif variant == "eager":
        whole = TwoStages(model)
    else:
        raise InputError(f"--variants {variant}: not for two stages, whose files contain NMS")
    return inference(whole, image, variant, args.dtype)


def compare(system: str, args: argparse.Namespace) -> list[dict]:
    """One row per backbone and variant, fastest first."""
    configs = {n: read_config(find_config(path)) for n, path in SYSTEMS[system].items()}
    shape, device = shape_of(system, args), torch.device(args.device)
    reference = (next(iter(configs)), "eager")
    functions = {
        (name, variant): step_of(cfg, variant, shape, args)
        for name, cfg in configs.items()
        for variant in dict.fromkeys(["eager", *args.variants])
    }
    seconds = alternate(functions, args.rounds, device, warmup=1)
    costs, rows = {name: break_down(cfg, shape) for name, cfg in configs.items()}, []
    for name, variant in functions:
        row = {"system": system, "model": name, "variant": variant}
        row["params M"], row["GMACs"] = costs[name].params / 1e6, costs[name].macs / 1e9
        taken = seconds[name, variant]
        row["time"], row["time low"], row["time high"] = ratio(taken, seconds[reference])
        if device.type == "cuda":
            row["images/s"] = 1 / median(taken)
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
        first = next(iter(SYSTEMS[system]))
        title = f"{system}: time of one image / {first} eager, {args.dtype}"
        show(f"{title} (fastest first)", table, [])
        named = [{**row, "model": f"{row['model']} {row['variant']}"} for row in table]
        plot_ratios(folder / f"{system}.png", named, "time", title)
        rows += table
        keep(folder, "systems", rows, machine)
    for key, value in machine.items():
        print(f"{key}: {value}")
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
