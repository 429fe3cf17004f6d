"""How fast are mmcv's operators by torchvision, beside mmcv's compiled ones?

    python benchmarks/operators.py
    python benchmarks/operators.py --device cuda --rounds 21

Runs in an environment whose mmcv was compiled (docs/troubleshooting.md has the commands). RoIAlign
and NMS at the sizes of Mask R-CNN, then a training iteration of each of the four architectures:
two images, forward and backward, without the optimizer's step. Both kinds of operators take turns
in one process, with the same weights and inputs.
"""

import argparse
import sys
import warnings

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from suite.machine import describe
from suite.results import keep, new_folder, show
from suite.timing import alternate, ratio

from mmdualtoken.cli import run_tool
from mmdualtoken.config_files import config_path
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import build_model
from mmdualtoken.ops import extension, operators_in_use

CONFIGS = {
    "Mask R-CNN": "mmdet/maskrcnn_dualtoken_s_1x.py",
    "RetinaNet": "mmdet/retinanet_dualtoken_s_1x.py",
    "DeepLabv3": "mmseg/deeplabv3_dualtoken_s_160k.py",
    "PSPNet": "mmseg/pspnet_dualtoken_s_160k.py",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--size", type=int, default=320, help="of the images of an iteration, px")
    parser.add_argument("--out", help="a new folder (default: benchmarks/results/operators_TIME)")
    return parser.parse_args()


def use(operators: object) -> None:
    """Have all of mmcv.ops call these operators."""
    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            module.ext_module = operators


def boxes(count: int, size: float, device: torch.device) -> torch.Tensor:
    """Random boxes (count, 4) in a square of ``size`` pixels, the same every time."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * size
    return corners.flatten(1).to(device)


def operator_cases(device: torch.device) -> dict:
    """Functions that call one operator, by name."""
    from mmcv import ops

    x = torch.randn(2, 64, 100, 168, device=device)
    tracked = x.clone().requires_grad_()
    rois = torch.cat([torch.zeros(1000, 1, device=device), boxes(1000, 640, device)], 1)
    candidates, scores = boxes(2000, 800, device), torch.rand(2000, device=device)

    def roi_align(x):
        return ops.roi_align(x, rois, (7, 7), 0.125, 0, "avg", True)

    return {
        "RoIAlign": lambda: roi_align(x),
        "RoIAlign, forward and backward": lambda: roi_align(tracked).sum().backward(),
        "NMS, 2000 boxes": lambda: ops.nms(candidates, scores, 0.7),
        "soft NMS, 500 boxes": lambda: ops.soft_nms(candidates[:500], scores[:500], 0.5),
    }


def batch(cfg: Config, size: int) -> dict:
    """Two images with labels, as a data loader gives them."""
    if cfg.default_scope == "mmdet":
        from mmdet.testing import demo_mm_inputs

        shapes = [[3, size, size]] * 2
        return demo_mm_inputs(2, shapes, num_items=[10, 10], num_classes=80, with_mask=True)
    from mmseg.structures import SegDataSample

    labels = torch.arange(size * size).reshape(1, size, size) % 150
    meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
    sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels))
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=[sample, sample])


def iteration(config: str, args: argparse.Namespace):
    """A function that takes the same two images through a model, forward and backward."""
    cfg = Config.fromfile(config_path(config))
    init_default_scope(cfg.default_scope)
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    if cfg.default_scope == "mmseg":
        cfg.model.data_preprocessor.size = (args.size, args.size)
    torch.manual_seed(0)
    model = build_model(cfg).to(args.device).train()
    data = batch(cfg, args.size)

    def run():
        inputs = model.data_preprocessor(data, training=True)
        losses, _ = model.parse_losses(model(**inputs, mode="loss"))
        losses.backward()

    return run


def compare(name: str, function, args: argparse.Namespace) -> dict:
    """The row of one case: the time with torchvision's operators over that with compiled ones."""
    import mmcv._ext

    def with_operators(operators):
        def run():
            use(operators)
            function()

        return run

    candidates = {"compiled": with_operators(mmcv._ext), "torchvision": with_operators(extension)}
    seconds = alternate(candidates, args.rounds, torch.device(args.device), warmup=1)
    row = {"case": name}
    keys = ("torchvision / compiled", "low", "high")
    return row | dict(zip(keys, ratio(seconds["torchvision"], seconds["compiled"]), strict=True))


def main() -> None:
    args = parse_args()
    if operators_in_use() != "compiled":
        raise InputError(
            "mmcv has no compiled operators in this environment (or MMDUALTOKEN_OPS replaces "
            "them), so that there is nothing to compare with. docs/troubleshooting.md says how to "
            "install them."
        )
    warnings.filterwarnings("ignore")
    folder = new_folder("operators", args.out)
    machine = describe(torch.device(args.device))
    cases = operator_cases(torch.device(args.device))
    rows = [compare(name, function, args) for name, function in cases.items()]
    for name, config in CONFIGS.items():
        rows.append(compare(f"{name}, an iteration", iteration(config, args), args))
    show("Time with operators by torchvision / with compiled ones", rows, [])
    keep(folder, "operators", rows, machine)
    for key, value in machine.items():
        print(f"{key}: {value}")
    print(f"written: {folder}")


if __name__ == "__main__":
    run_tool(main)
