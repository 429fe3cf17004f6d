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
from mmdualtoken.config_files import PROJECT_ROOT

SCENES = dict(num_train=8, num_val=4, size_range=(96, 128))
LAYOUTS = {"mmdet": "coco", "mmseg": "ade20k", "mmpretrain": "imagenet"}
SHRINK = {"mmdet": 10, "mmseg": 8, "mmpretrain": 3.5}  # 133x80, 64x64 and 64x64 pixels
BATCH_SIZE, EPOCHS, ITERATIONS = 2, 2, 8
ROIS = 32  # per image, instead of 512: the heads cost more than the backbone
SIZE_KEYS = ("scale", "scales", "crop_size")

HEADER = '''"""{stem} on {images} generated scenes of the {layout} layout, for seconds on a CPU.

It shows that everything works, not what the model can do. Sizes are the real ones divided by
{shrink:g}. Made anew by `tools/reproduce.py --data mini`: copy it to change it.
"""

_base_ = "{base}"

'''


def _smaller(value: Any, factor: float) -> Any:
    """A size in pixels, or a tuple or list of them, divided by a factor."""
    if isinstance(value, (list, tuple)):
        return type(value)(_smaller(item, factor) for item in value)
    return round(value / factor)


def _smaller_pipeline(pipeline: list[dict], factor: float) -> list[dict]:
    return [
        {k: _smaller(v, factor) if k in SIZE_KEYS else v for k, v in step.items()}
        for step in pipeline
    ]


def _classes(scope: str) -> dict[str, Any]:
    """What the data sets of the scenes are called and contain."""
    if scope == "mmseg":
        names = ("background", *CLASSES)
        palette = [(40 * i, 0, 0) for i in range(len(names))]
        # ADE20K's own data set knows no other classes than its own.
        metainfo = dict(classes=names, palette=palette)
        return dict(type="BaseSegDataset", reduce_zero_label=True, metainfo=metainfo)
    names = tuple(sorted(CLASSES)) if scope == "mmpretrain" else CLASSES  # by order of folders
    return dict(metainfo=dict(classes=names))


def _model(cfg: Config) -> dict[str, Any]:
    """The number of classes in every head, and what the model itself names of sizes and RoIs."""
    if cfg.default_scope == "mmpretrain":
        return dict(head=dict(num_classes=len(CLASSES)))
    if cfg.default_scope == "mmseg":
        count = dict(num_classes=1 + len(CLASSES))
        size = _smaller(cfg.model.data_preprocessor.size, SHRINK["mmseg"])
        heads = {k: count for k in ("decode_head", "auxiliary_head") if cfg.model.get(k)}
        return dict(data_preprocessor=dict(size=size), **heads)
    count = dict(num_classes=len(CLASSES))
    parent = cfg.model.get("roi_head", cfg.model)
    heads = {k: count for k in ("bbox_head", "mask_head") if parent.get(k)}
    if "roi_head" not in cfg.model:
        return heads
    return dict(
        roi_head=heads,
        train_cfg=dict(
            rpn=dict(sampler=dict(num=64)),
            rpn_proposal=dict(nms_pre=200, max_per_img=100),
            rcnn=dict(sampler=dict(num=ROIS)),
        ),
        test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
    )


def _loader(cfg: Config, name: str, data: str) -> dict[str, Any]:
    pipeline = cfg[name].dataset.pipeline
    factor = SHRINK[cfg.default_scope]
    dataset = dict(
        data_root=data, pipeline=_smaller_pipeline(pipeline, factor), **_classes(cfg.default_scope)
    )
    batch = dict(batch_size=BATCH_SIZE) if name == "train_dataloader" else {}
    return dict(**batch, num_workers=0, persistent_workers=False, dataset=dataset)


def mini_settings(cfg: Config, data: str, work_dir: str) -> dict[str, Any]:
    """What a config's small version sets otherwise.

    Args:
        cfg: the real config.
        data: folder of the scenes in the layout of the config's toolbox.
        work_dir: where it trains.
    """
    classification = cfg.default_scope == "mmpretrain"
    epochs = bool(cfg.train_cfg.get("max_epochs"))
    evaluator = dict(topk=(1,)) if classification else {}
    if cfg.default_scope == "mmdet":
        evaluator = dict(ann_file=f"{data}annotations/instances_val2017.json")
    settings = dict(
        work_dir=work_dir,
        model=_model(cfg),
        data_preprocessor=dict(num_classes=len(CLASSES)) if classification else {},
        train_dataloader=_loader(cfg, "train_dataloader", data),
        val_dataloader=_loader(cfg, "val_dataloader", data),
        test_dataloader=_loader(cfg, "test_dataloader", data),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        train_cfg=dict(max_epochs=EPOCHS, val_interval=1)
        if epochs
        else dict(max_iters=ITERATIONS, val_interval=ITERATIONS // 2),
        param_scheduler=[],  # warm-ups and steps that begin after the end are refused
        auto_scale_lr=dict(base_batch_size=BATCH_SIZE),
        default_hooks=dict(
            logger=dict(interval=1),
            checkpoint=dict(
                interval=1 if epochs else ITERATIONS // 2, max_keep_ckpts=1, save_optimizer=False
            ),
        ),
    )
    return {key: value for key, value in settings.items() if value != {}}


def mini_data(root: Path, scope: str) -> str:
    """The folder of scenes for a toolbox, with a slash at its end."""
    return f"{root / 'data' / LAYOUTS[scope]}/"


def _base(config: Path, root: Path) -> str:
    """How a config in `root` names its base: relative within the project."""
    inside = root.resolve().is_relative_to(PROJECT_ROOT) and config.is_relative_to(PROJECT_ROOT)
    return os.path.relpath(config, root.resolve()) if inside else str(config)


def write_mini_config(config: Path, cfg: Config, root: Path) -> Path:
    """Write the small version of a config to `root`, beside its data and work dirs.

    Raises:
        InputError: a file of that name is there that was not written by this tool.
    """
    scope, stem = cfg.default_scope, config.stem
    settings = mini_settings(cfg, mini_data(root, scope), str(root / stem))
    header = HEADER.format(
        stem=stem,
        images=SCENES["num_train"],
        layout=LAYOUTS[scope],
        shrink=SHRINK[scope],
        base=_base(config, root),
    )
    path = root / f"{stem}.py"
    write_own(path, header + Config(settings).pretty_text, comment="# {}")
    return path


def write_mini_data(root: Path, scopes: set[str]) -> None:
    """Write the scenes of each toolbox, unless they are there."""
    for scope in sorted(scopes):
        write_scenes(LAYOUTS[scope], mini_data(root, scope), **SCENES)
