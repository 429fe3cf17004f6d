"""Each table on a few generated scenes: derived configs that are small and short, and their data.

They show that a row trains and tests from end to end; their figures say nothing about the paper's.
"""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

from lab.report.files import write_own
from lab.scene_writers import write_scenes
from lab.scenes import CLASSES

CLONE = Path(__file__).resolve().parents[2]
SCENES = dict(num_train=8, num_val=4, size_range=(96, 128))
LAYOUTS = {"mmdet": "coco", "mmseg": "ade20k", "mmpretrain": "imagenet"}
SHRINK = {"mmdet": 10, "mmseg": 8, "mmpretrain": 3.5}  # 133x80, 64x64 and 64x64 pixels
BATCH_SIZE, EPOCHS, ITERATIONS = 2, 2, 8
ROIS = 32  # per image, instead of 512: the heads cost more than the backbone
SIZE_KEYS = ("scale", "scales", "crop_size")

HEADER = '''"""{stem} on {images} generated scenes of the {layout} layout, for seconds on a CPU.

It shows that everything works, not how good the model is. Sizes are the real ones divided by
{shrink:g}. `tools/reproduce.py --data mini` writes this file each time: copy it to change it.
"""

_base_ = "{base}"

'''


def _shrink(value: Any, factor: float) -> Any:
    """Divide a size in pixels, or each of a tuple or list, by a factor."""
    if isinstance(value, (list, tuple)):
        return type(value)(_shrink(item, factor) for item in value)
    return round(value / factor)


def _set_num_classes(node: dict, count: int) -> dict[str, Any]:
    """Return the settings that give each head of a model its number of classes."""
    nested = {k: _set_num_classes(v, count) for k, v in node.items() if isinstance(v, dict)}
    settings = {k: v for k, v in nested.items() if v}
    return dict(settings, num_classes=count) if node.get("num_classes") else settings


def _model(cfg: Config, count: int) -> dict[str, Any]:
    """Return the model's settings: numbers of classes, sizes and RoIs."""
    settings = _set_num_classes(cfg.model, count)
    if cfg.default_scope == "mmseg":
        size = _shrink(cfg.model.data_preprocessor.size, SHRINK["mmseg"])
        settings["data_preprocessor"] = dict(size=size)
    if "roi_head" in cfg.model:
        proposals = dict(nms_pre=200, max_per_img=100)
        settings["train_cfg"] = dict(
            rpn=dict(sampler=dict(num=64)),
            rpn_proposal=proposals,
            rcnn=dict(sampler=dict(num=ROIS)),
        )
        settings["test_cfg"] = dict(rpn=proposals)
    return settings


def _dataset(scope: str) -> dict[str, Any]:
    """Return the settings of a data set of scenes that its classes need."""
    if scope == "mmseg":
        names = ("background", *CLASSES)
        metainfo = dict(classes=names, palette=[(40 * i, 0, 0) for i in range(len(names))])
        # ADE20K's own data set takes no other classes than its own.
        return dict(type="BaseSegDataset", reduce_zero_label=True, metainfo=metainfo)
    names = tuple(sorted(CLASSES)) if scope == "mmpretrain" else CLASSES  # by order of folders
    return dict(metainfo=dict(classes=names))


def _loader(loader: dict, scope: str, data: str) -> dict[str, Any]:
    pipeline = [
        {k: _shrink(v, SHRINK[scope]) if k in SIZE_KEYS else v for k, v in step.items()}
        for step in loader["dataset"]["pipeline"]
    ]
    dataset = dict(data_root=data, pipeline=pipeline, **_dataset(scope))
    return dict(num_workers=0, persistent_workers=False, dataset=dataset)


def mini_settings(cfg: Config, data: str, work_dir: str) -> dict[str, Any]:
    """Return the settings that turn a config into its small version.

    Args:
        cfg: the real config.
        data: folder of the scenes in the layout of the config's toolbox.
        work_dir: where it trains.
    """
    scope = cfg.default_scope
    epochs = bool(cfg.train_cfg.get("max_epochs"))
    interval = 1 if epochs else ITERATIONS // 2
    length = dict(max_epochs=EPOCHS) if epochs else dict(max_iters=ITERATIONS)
    checkpoint = dict(interval=interval, max_keep_ckpts=1, save_optimizer=False)
    settings = dict(
        work_dir=work_dir,
        model=_model(cfg, len(CLASSES) + (scope == "mmseg")),
        train_cfg=dict(length, val_interval=interval),
        param_scheduler=[],  # MMEngine refuses warm-ups and steps that begin after the end
        auto_scale_lr=dict(base_batch_size=BATCH_SIZE),
        default_hooks=dict(logger=dict(interval=1), checkpoint=checkpoint),
    )
    evaluator = {}
    if scope == "mmpretrain":
        settings["data_preprocessor"] = dict(num_classes=len(CLASSES))
        evaluator = dict(topk=(1,))
    if scope == "mmdet":
        evaluator = dict(ann_file=f"{data}annotations/instances_val2017.json")
    for name in ("train", "val", "test"):
        settings[f"{name}_dataloader"] = _loader(cfg[f"{name}_dataloader"], scope, data)
        if name != "train" and evaluator:
            settings[f"{name}_evaluator"] = evaluator
    settings["train_dataloader"]["batch_size"] = BATCH_SIZE
    return settings


def mini_data(root: Path, scope: str) -> str:
    """Return the folder of scenes for a toolbox, with a slash at its end."""
    return f"{root / 'data' / LAYOUTS[scope]}/"


def write_mini_config(config: Path, cfg: Config, root: Path) -> Path:
    """Write the small version of a config to `root`, next to its data and work dirs.

    Raises:
        InputError: a file of that name is there that was not written by this tool.
    """
    scope, folder = cfg.default_scope, root.resolve()
    # Within the clone, which may move, configs name their bases by relative paths.
    inside = folder.is_relative_to(CLONE) and config.is_relative_to(CLONE)
    header = HEADER.format(
        stem=config.stem,
        images=SCENES["num_train"],
        layout=LAYOUTS[scope],
        shrink=SHRINK[scope],
        base=os.path.relpath(config, folder) if inside else config,
    )
    settings = mini_settings(cfg, mini_data(root, scope), str(root / config.stem))
    path = root / config.name
    write_own(path, header + Config(settings).pretty_text, comment="# {}")
    return path


def write_mini_data(root: Path, scopes: set[str]) -> None:
    """Write the scenes of each toolbox, unless they are there."""
    for scope in sorted(scopes):
        write_scenes(LAYOUTS[scope], mini_data(root, scope), **SCENES)
