"""The configs hold the values of the recipe, build, and train the parameters they should."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmdualtoken.models import DualTokenViT
from mmdualtoken.models.necks import DualTokenFPN

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*_*.py"))
IDS = [str(p.relative_to(ROOT)) for p in CONFIGS]


def own_levels(path):
    """How many of our own files a config is made of; the toolbox's bases add one level."""
    bases = Config._get_base_files(path)
    own = [path.parent / base for base in bases if "::" not in base]
    return 1 + max((own_levels(base) for base in own), default=0)


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_at_most_three_levels(path):
    assert own_levels(path) + 1 <= 3


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_builds_and_agrees(path):
    """Every config builds; neck, anchors and heads fit the backbone and the classes."""
    from mmdet.registry import MODELS

    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    assert isinstance(model.backbone, DualTokenViT) and isinstance(model.neck, DualTokenFPN)
    widths = list(model.backbone.arch["embed_dims"])
    assert model.neck.in_channels == widths
    assert model.rpn_head.anchor_generator.strides == [(s, s) for s in (4, 8, 16, 32, 64)]
    classes = cfg.train_dataloader.dataset.get("metainfo", {}).get("classes", range(80))
    assert model.roi_head.bbox_head.num_classes == len(classes)
    assert model.roi_head.mask_head.num_classes == len(classes)
    assert cfg.val_dataloader.dataset.data_root == cfg.train_dataloader.dataset.data_root
    assert cfg.val_evaluator.ann_file.startswith(cfg.val_dataloader.dataset.data_root)
    assert cfg.test_evaluator == cfg.val_evaluator


def test_recipe_of_the_real_config():
    cfg = Config.fromfile(ROOT / "configs/mmdet/maskrcnn_dualtoken_s_1x.py")
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.04)
    warmup, steps = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end, warmup.by_epoch) == (0.001, 500, False)
    assert (steps.milestones, steps.gamma) == ([8, 11], 0.1)
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_dataloader.batch_size == 2 and cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_pipeline[2].scale == (1333, 800)
    backbone = cfg.model.backbone
    assert (backbone.arch, backbone.token_mlp, backbone.drop_path_rate) == ("small", "mix", 0.1)
    # From scratch: what decides whether it learns.
    assert backbone.out_norm_cfg.type == "BN" and not backbone.norm_eval
    assert backbone.init_cfg is None


def test_tiny_differs_in_the_backbone_only():
    small, tiny = (
        Config.fromfile(ROOT / f"configs/mmdet/maskrcnn_dualtoken_{size}_1x.py").to_dict()
        for size in "st"
    )
    assert tiny["model"]["backbone"].pop("arch") == "tiny"
    assert tiny["model"]["neck"].pop("in_channels") == [48, 96, 192]
    assert small["model"]["backbone"].pop("arch") == "small"
    assert small["model"]["neck"].pop("in_channels") == [64, 128, 256]
    assert tiny == small


def test_demo_warms_up_for_a_tenth_at_most():
    cfg = Config.fromfile(ROOT / "configs/mmdet/maskrcnn_dualtoken_s_demo.py")
    warmup, decay = cfg.param_scheduler
    assert warmup.end <= cfg.train_cfg.max_iters / 10
    assert decay.end == cfg.train_cfg.max_iters
    # tools/demo.py names the last checkpoint.
    assert f"iter_{cfg.train_cfg.max_iters}.pth" in (ROOT / "tools/demo.py").read_text()


def test_weight_decay():
    """None on 1-D parameters and the global tokens; 0.04 on all others."""
    cfg = Config.fromfile(ROOT / "configs/mmdet/maskrcnn_dualtoken_s_1x.py")
    init_default_scope("mmdet")
    model = nn.ModuleDict(dict(backbone=DualTokenViT("tiny", token_mlp="mix")))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    decay = {id(g["params"][0]): g["weight_decay"] for g in wrapper.optimizer.param_groups}
    names = dict(model.named_parameters())
    free = {n for n, p in names.items() if decay[id(p)] == 0}
    assert free == {n for n, p in names.items() if p.ndim == 1} | {"backbone.global_tokens"}
    assert {decay[id(p)] for n, p in names.items() if n not in free} == {0.04}
