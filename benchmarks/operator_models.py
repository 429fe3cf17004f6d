"""Which models of the toolboxes work without mmcv's compiled operators?

    python benchmarks/operator_models.py
    python benchmarks/operator_models.py --toolbox mmdet --folder dcn detr
    python benchmarks/operator_models.py --toolbox mmseg mmpretrain --build-only

Builds the model of every config that the installed mmdet, mmseg and mmpretrain ship, and looks up
which of mmcv's operators its layers call. One model of each folder of configs, the smallest, also
predicts on a small image with random weights. Writes a CSV with one row per config.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import re
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData

from mmdualtoken.cli import run_tool
from mmdualtoken.ops import extension

TOOLBOXES = ("mmdet", "mmseg", "mmpretrain")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toolbox", nargs="+", choices=TOOLBOXES, default=TOOLBOXES)
    parser.add_argument("--folder", nargs="+", help="only these folders of configs")
    parser.add_argument("--build-only", action="store_true", help="predict with no model")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/operator_models.csv"))
    return parser.parse_args()


def operators_of(module_name: str) -> set:
    """The operators that a module of mmcv.ops loads."""
    source = inspect.getsource(importlib.import_module(module_name))
    lists = re.findall(r"load_ext\(\s*['\"]_ext['\"],\s*\[(.*?)\]", source, re.S)
    return set(re.findall(r"['\"](\w+)['\"]", " ".join(lists)))


def needed(model: torch.nn.Module) -> set:
    """The operators that the layers of a model call."""
    modules = {type(m).__module__ for m in model.modules()}
    names = [name for name in modules if name.startswith("mmcv.ops.")]
    return set().union(*map(operators_of, names))


def build(cfg: Config) -> torch.nn.Module:
    """The config's model, without memory for weights where its constructor allows that."""
    init_default_scope(cfg.default_scope)
    registry = importlib.import_module(f"{cfg.default_scope}.registry").MODELS
    model = cfg.model
    for part in (model, model.get("backbone", {}), model.get("image_encoder", {})):
        part.pop("init_cfg", None)
        part.pop("pretrained", None)
    if "data_preprocessor" in cfg and "data_preprocessor" not in model:
        model["data_preprocessor"] = cfg.data_preprocessor
    try:
        with torch.device("meta"):
            return registry.build(deepcopy(model))
    except Exception:  # torch.linspace(...).tolist() and the like need values
        return registry.build(deepcopy(model))


def sample_of(toolbox: str, size: int, with_proposals: bool) -> object:
    """The data sample of a square image of ``size`` pixels a side, without objects."""
    name = dict(mmdet="DetDataSample", mmseg="SegDataSample", mmpretrain="DataSample")[toolbox]
    shape = (size, size)
    meta = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), shape)
    meta |= dict(scale_factor=(1.0, 1.0), border=np.array([0, size, 0, size]), flip=False)
    sample = getattr(importlib.import_module(f"{toolbox}.structures"), name)(metainfo=meta)
    if toolbox == "mmdet":
        sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    if with_proposals:
        sample.proposals = InstanceData(bboxes=torch.tensor([[8.0, 8, 90, 99]]))
    if toolbox == "mmseg":
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *shape, dtype=torch.long))
    return sample


def predict(cfg: Config, with_proposals: bool = False) -> None:
    """Predict on a small image, on the CPU, with random weights."""
    toolbox = cfg.default_scope
    init_default_scope(toolbox)
    registry = importlib.import_module(f"{toolbox}.registry").MODELS
    model = registry.build(deepcopy(cfg.model)).eval()
    size = 224 if toolbox == "mmpretrain" else 256
    image = torch.randint(0, 255, (3, size, size), dtype=torch.uint8)
    sample = sample_of(toolbox, size, with_proposals)
    with torch.no_grad():
        model.test_step(dict(inputs=[image], data_samples=[sample]))


def outcome(function: Callable, *args) -> str:
    """ "yes", or what a function raised."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            function(*args)
        return "yes"
    except Exception as error:
        message = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {message[-1]}"


def row_of(path: Path, root: Path, toolbox: str) -> tuple:
    """The row of a config, and the config if its model was built."""
    row = dict(toolbox=toolbox, config=path.relative_to(root).as_posix())
    try:
        cfg = Config.fromfile(path)
        if "model" not in cfg or not isinstance(cfg.model, dict):
            return None, None
        cfg.setdefault("default_scope", toolbox)
        model = build(cfg)
    except Exception as error:
        message = str(error).strip().splitlines() or [""]
        return row | dict(verdict="not built", why=f"{type(error).__name__}: {message[-1]}"), None
    operators = needed(model)
    missing = sorted(operators - set(extension.__all__))
    row["parameters"] = sum(p.numel() for p in model.parameters())
    row["operators"] = " ".join(o for o in sorted(operators) if "_backward" not in o)
    return row | dict(verdict="missing" if missing else "works", why=" ".join(missing)), cfg


def survey(toolbox: str, folders: list | None, build_only: bool) -> list:
    """The rows of a toolbox's configs."""
    package = Path(importlib.import_module(toolbox).__file__).parent
    importlib.import_module(f"{toolbox}.models")
    root, rows = package / ".mim" / "configs", []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name != "_base_"):
        if folders and folder.name not in folders:
            continue
        built = []
        for path in sorted(folder.rglob("*.py")):
            if "_base_" in path.parts:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                row, cfg = row_of(path, root, toolbox)
            if row:
                rows.append(row)
            if cfg is not None:
                built.append((row["parameters"], len(rows) - 1, cfg))
        if built and not build_only:
            _, index, cfg = min(built, key=lambda item: item[:2])
            predicted = outcome(predict, cfg)
            if predicted != "yes" and toolbox == "mmdet":  # Fast R-CNN is given its proposals
                predicted = "yes" if outcome(predict, cfg, True) == "yes" else predicted
            rows[index]["predicted"] = predicted
            print(toolbox, folder.name, len(built), rows[index]["predicted"], flush=True)
    return rows


def main() -> None:
    args = parse_args()
    warnings.filterwarnings("ignore")
    MMLogger.get_instance("mmengine").setLevel("ERROR")
    rows = []
    for toolbox in args.toolbox:
        rows += survey(toolbox, args.folder, args.build_only)
    table = pandas.DataFrame(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)
    print(table.groupby(["toolbox", "verdict"]).size().to_string())
    print(f"written: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    run_tool(main)
