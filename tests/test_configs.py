"""The configs hold the values of the recipe, build, and train the parameters they should."""

import math
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from narrow import CONFIGS, OURS, RIVALS, ROOT, build, levels, name_of
from torch import nn

from mmdualtoken.cli import find_config
from mmdualtoken.errors import InputError
from mmdualtoken.models import DualTokenViT

each_config = pytest.mark.parametrize("path", CONFIGS, ids=map(name_of, CONFIGS))


DEMO = {"maskrcnn_dualtoken_s_demo": 1, "maskrcnn_dualtoken_t_demo": 2}  # levels more
FINETUNE = {
    "mmdet/maskrcnn_dualtoken_t_finetune": 1,
    "mmseg/segformer_dualtoken_t_finetune": 1,
    "mmpretrain/dualtoken_t_mix_finetune": 1,
}


def load(name):
    return Config.fromfile(ROOT / "configs" / f"{name}.py")


def code_lines(path):
    """Lines of a config without its docstring, comments and blank lines."""
    _, _, code = path.read_text().split('"""', 2)
    return [line for line in code.splitlines() if line.split("#")[0].strip()]


@each_config
def test_at_most_three_levels(path):
    """Config, recipe, toolbox. The demo and fine-tuning change the recipe of a real config."""
    name = f"{path.parent.name}/{path.stem}"
    assert levels(path) <= 3 + DEMO.get(path.stem, 0) + FINETUNE.get(name, 0)


@each_config
def test_a_config_only_composes(path):
    """It names its bases and the difference; schedules and pipelines lie in the bases."""
    assert path.stem in DEMO or len(code_lines(path)) <= 6
    assert not re.search(r"pipeline\[", path.read_text())


def feature_sizes(cfg, model, size):
    """Heights of the maps that the heads get, without computing any."""
    maps = model.to("meta").eval().extract_feat(torch.empty(1, 3, size, size, device="meta"))
    return [m.shape[2] for m in maps]


#: Of the levels that a detector's head reads.
STRIDES = dict(MaskRCNN=[4, 8, 16, 32, 64], RetinaNet=[8, 16, 32, 64, 128], RTMDet=[8, 16, 32])


def check_detector(cfg, model):
    head = cfg.model.get("rpn_head") or cfg.model.bbox_head
    strides = head.anchor_generator.strides
    assert strides == STRIDES[cfg.model.type]
    assert feature_sizes(cfg, model, 128) == [math.ceil(128 / s) for s in strides]
    classes = cfg.train_dataloader.dataset.get("metainfo", {}).get("classes", range(80))
    heads = cfg.model.get("roi_head", cfg.model)
    counts = {heads[h].num_classes for h in ("bbox_head", "mask_head") if h in heads}
    assert counts == {len(classes)}
    # Raises where channels of backbone, neck and heads differ.
    feats = model.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    (model.rpn_head if "rpn_head" in cfg.model else model.bbox_head)(feats)
    assert cfg.val_evaluator.ann_file.startswith(cfg.val_dataloader.dataset.data_root)


def check_segmentor(cfg, model):
    from mmseg.datasets import ADE20KDataset

    feats = model.to("meta").eval().extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    stride = 32 if "stride32" in cfg.filename else 8
    if "segformer" in cfg.filename:  # logits at the stride of the finest map
        stride = 4 if len(cfg.model.decode_head.in_index) == 4 else 8
    assert model.decode_head(feats).shape == (1, 150, 128 // stride, 128 // stride)
    assert model.decode_head.num_classes == 150 == len(ADE20KDataset.METAINFO["classes"])
    if model.with_auxiliary_head:
        assert model.auxiliary_head(feats).shape[1] == 150


def check_classifier(cfg, model):
    model.to("meta").eval()
    vector = model.extract_feat(torch.empty(1, 3, 128, 128, device="meta"))
    photos = re.search("photos393|finetune", cfg.filename)  # other sets than ImageNet
    assert model.head(vector).shape == (1, 393 if photos else 1000)
    assert cfg.train_dataloader.dataset.type == ("CustomDataset" if photos else "ImageNet")


@each_config
def test_builds_and_agrees(path):
    """Strides, channels and numbers of classes of backbone, neck, heads and data set agree."""
    cfg = Config.fromfile(path)
    checks = dict(mmdet=check_detector, mmseg=check_segmentor, mmpretrain=check_classifier)
    checks[cfg.default_scope](cfg, build(cfg))
    assert cfg.val_dataloader.dataset.data_root == cfg.train_dataloader.dataset.data_root
    assert cfg.test_evaluator == cfg.val_evaluator
    kind = re.search("photos393|finetune|t_demo|$", path.stem)[0] or cfg.model.type
    few = dict(mmdet=8, mmseg=8, mmpretrain=32)
    recipes = dict(RTMDet=256, photos393=128, finetune=few[cfg.default_scope], t_demo=8)
    batch = recipes.get(kind, dict(mmdet=16, mmseg=16, mmpretrain=1024)[cfg.default_scope])
    assert cfg.auto_scale_lr.base_batch_size == batch


def test_recipe_of_mask_rcnn():
    cfg = load("mmdet/maskrcnn_dualtoken_s_1x")
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
    assert "init_cfg" not in backbone


@pytest.mark.parametrize("detector", ["maskrcnn", "retinanet"])
def test_3x(detector):
    once, thrice = (load(f"mmdet/{detector}_dualtoken_s_{s}").to_dict() for s in ("1x", "3x"))
    assert thrice["train_cfg"]["max_epochs"] == 36
    assert thrice["param_scheduler"][1]["milestones"] == [27, 33]
    assert thrice["param_scheduler"][0] == once["param_scheduler"][0]
    resize = thrice["train_dataloader"]["dataset"]["pipeline"][2]
    assert resize["type"] == "RandomChoiceResize" and resize["keep_ratio"]
    assert (resize["scales"][0], resize["scales"][-1]) == ((1333, 480), (1333, 800))
    for key in ("model", "optim_wrapper", "val_dataloader", "test_evaluator"):
        assert thrice[key] == once[key]


def test_retinanet_shares_the_recipe_of_mask_rcnn():
    mask, retina = (load(f"mmdet/{d}_dualtoken_s_1x") for d in ("maskrcnn", "retinanet"))
    assert retina.model.backbone == mask.model.backbone
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr"):
        assert retina[key] == mask[key]


@pytest.mark.parametrize("ours, theirs", [("t", "tiny"), ("s", "s")])
@pytest.mark.parametrize("kind", ["rtmdet", "rtmdet-ins"])
def test_rtmdet_is_mmdetections_with_another_backbone(kind, ours, theirs, tmp_path):
    """Its two pipelines, EMA, schedule and heads; no weight decay on layer scales and tokens."""
    cfg = load(f"mmdet/{kind}_dualtoken_{ours}").to_dict()
    (tmp_path / "a.py").write_text(f'_base_ = "mmdet::rtmdet/{kind}_{theirs}_8xb32-300e_coco.py"')
    theirs = Config.fromfile(tmp_path / "a.py").to_dict()
    assert cfg["optim_wrapper"]["optimizer"] == dict(type="AdamW", lr=0.004, weight_decay=0.05)
    paramwise = cfg["optim_wrapper"].pop("paramwise_cfg")
    assert paramwise == {
        **theirs["optim_wrapper"].pop("paramwise_cfg"),
        "flat_decay_mult": 0.0,
        "custom_keys": {"global_tokens": dict(decay_mult=0.0)},
    }
    widths = cfg["channels"]
    assert cfg["model"].pop("neck") == {**theirs["model"].pop("neck"), "in_channels": widths}
    backbone = cfg["model"].pop("backbone")
    assert backbone["out_norm_cfg"]["type"] == "BN" and "init_cfg" not in backbone
    theirs["model"].pop("backbone")
    ema, switch = cfg["custom_hooks"]
    assert (ema["type"], switch["type"]) == ("EMAHook", "PipelineSwitchHook")
    assert switch["switch_epoch"] == 280 and cfg["train_cfg"]["max_epochs"] == 300
    kinds = [
        [step["type"] for step in p] for p in (cfg["train_pipeline"], switch["switch_pipeline"])
    ]
    assert [("CachedMosaic" in k, "CachedMixUp" in k) for k in kinds] == [(True,) * 2, (False,) * 2]
    for key in theirs.keys() - {"auto_scale_lr"}:
        assert cfg[key] == theirs[key], key


def test_recipe_of_ade20k():
    cfg = load("mmseg/deeplabv3_dualtoken_s_160k")
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys["head"].lr_mult == 10
    warmup, poly = cfg.param_scheduler
    assert warmup.end == poly.begin == 1500
    assert poly.end == cfg.train_cfg.max_iters == 160000 and poly.power == 1
    assert cfg.train_pipeline[3].crop_size == cfg.model.data_preprocessor.size == (512, 512)
    head, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    assert (head.channels, auxiliary.channels) == (512, 256)


def test_recipe_of_imagenet():
    cfg = load("mmpretrain/dualtoken_s_mlp_in1k")
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-3, 0.04)
    warmup, cosine = cfg.param_scheduler
    assert warmup.start_factor * optimizer.lr == pytest.approx(1e-7)
    assert warmup.end == cosine.begin == 20 and cosine.eta_min == 1e-6
    assert cfg.train_cfg.max_epochs == 300 and cfg.auto_scale_lr.base_batch_size == 1024
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["RandAugment"].magnitude_level == 9
    assert steps["RandomErasing"].erase_prob == 0.25
    assert steps["RandomResizedCrop"].interpolation == "bicubic"
    mixup, cutmix = cfg.model.train_cfg.augments
    assert (mixup.type, mixup.alpha) == ("Mixup", 0.2)
    assert (cutmix.type, cutmix.alpha) == ("CutMix", 1.0)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.backbone.drop_path_rate == 0.1


def rivals():
    for ours in OURS.values():
        for path in RIVALS:
            if path.match(re.sub(r"dualtoken_[st](_mix)?", "*", ours) + ".py"):
                yield pytest.param(path, ours, id=path.stem)


@pytest.mark.parametrize("path, ours", list(rivals()))
def test_rivals_train_by_the_same_recipe(path, ours):
    """Same data, schedule, optimizer and heads; the backbone, what feeds the heads, differs."""
    rival, ours = Config.fromfile(path), load(ours)
    for key in ("train_dataloader", "val_dataloader", "optim_wrapper", "param_scheduler"):
        assert rival[key] == ours[key]
    assert rival.train_cfg == ours.train_cfg and rival.test_cfg == ours.test_cfg
    for key in ("backbone", "neck"):
        rival.model.pop(key), ours.model.pop(key)
    for name in ("decode_head", "auxiliary_head", "head"):
        for model in (rival.model, ours.model):
            for key in ("in_channels", "in_index"):
                (model.get(name) or {}).pop(key, None)
    assert rival.model == ours.model


def test_every_rival_is_compared():
    assert {path.id for path in rivals()} == {path.stem for path in RIVALS}


@pytest.mark.parametrize("path", RIVALS, ids=map(name_of, RIVALS))
def test_rivals_are_found_by_the_names_of_ours(path, here):
    name = f"{path.parent.name}/{path.name}"
    assert not (ROOT / "configs" / name).exists()
    for spelling in (name, f"configs/{name}", f"./configs/{name}", f"lab/configs/{name}"):
        assert find_config(spelling) == path


def test_the_working_directory_comes_first(here):
    own = here / "configs" / "mmdet" / "maskrcnn_r50_1x.py"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_config("configs/mmdet/maskrcnn_r50_1x.py").resolve() == own


def test_a_misspelt_rival_is_guessed():
    with pytest.raises(InputError, match=r"Did you mean .*lab/configs/mmdet/maskrcnn_r50_1x\.py"):
        find_config("mmdet/maskrcnn_r50_1.py")


@pytest.mark.parametrize(
    "name",
    [
        "mmdet/maskrcnn_{}_1x",
        "mmdet/retinanet_{}_3x",
        "mmseg/pspnet_{}_160k",
        "mmseg/segformer_{}_160k",
        "mmseg/segformer_{}_stride4_160k",
        "mmseg/deeplabv3plus_{}_160k",
    ],
)
def test_tiny_differs_in_widths_only(name):
    small, tiny = (load(name.format(f"dualtoken_{size}")).to_dict() for size in "st")
    for variable in ("backbone", "channels", "dualtoken_fpn", "segmentor"):  # of the bases
        small.pop(variable, None), tiny.pop(variable, None)
    assert tiny["model"]["backbone"].pop("arch") == "tiny"
    assert small["model"]["backbone"].pop("arch") == "small"
    parts = [("neck", [48, 96, 192], [64, 128, 256])]
    if "mmseg" in name:
        parts = [("decode_head", 192, 256), ("auxiliary_head", 96, 128)]
    if "segformer" in name:
        first = [(48, 64)] if "stride4" in name else []
        widths = zip(*first, (48, 64), (96, 128), (192, 256), strict=True)
        parts = [("decode_head", *widths)]
    for part, narrower, wider in parts:
        assert tiny["model"][part].pop("in_channels") == narrower
        assert small["model"][part].pop("in_channels") == wider
    if "plus" in name:
        heads = tiny["model"]["decode_head"], small["model"]["decode_head"]
        assert [head.pop("c1_in_channels") for head in heads] == [48, 64]
    assert tiny == small


ABLATIONS = {
    "mlp_no_tokens": dict(token_mlp="mlp", token_module="none"),
    "mlp_normal_tokens": dict(token_mlp="mlp", token_module="normal", token_size=8),
    "mlp_msa_tokens": dict(token_mlp="mlp", token_module="msa", token_size=8),
    "mix_window": dict(local_encoder="window"),
    "mix_onestep": dict(downsample="onestep"),
    "mlp": dict(token_mlp="mlp"),
    **{f"mlp_grid{g}": dict(token_mlp="mlp", token_size=(g, g)) for g in (3, 4, 5, 6, 8, 9)},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_differ_in_the_backbone_only(name):
    ours, variant = load(OURS["in1k"]), load(f"mmpretrain/dualtoken_s_{name}_in1k")
    assert variant.model.backbone == {**ours.model.backbone, **ABLATIONS[name]}
    variant.model.backbone = ours.model.backbone
    assert variant.to_dict() == ours.to_dict()


@pytest.mark.parametrize("name", DEMO)
def test_demo_warms_up_for_a_tenth_at_most(name):
    cfg = load(f"mmdet/{name}")
    warmup, decay = cfg.param_scheduler
    assert warmup.end <= cfg.train_cfg.max_iters / 10
    assert decay.end == cfg.train_cfg.max_iters
    demo = (ROOT / "tools/demo.py").read_text()
    if f"{name}.py" in demo:  # it names the last checkpoint
        assert f"iter_{cfg.train_cfg.max_iters}.pth" in demo


@pytest.mark.parametrize("name", ["mmdet/rtmdet_dualtoken_t_finetune", *FINETUNE])
def test_recipe_for_few_images(name):
    """It starts from the shipped weights and feeds them RGB; the schedule ends with training."""
    cfg = Config.fromfile(find_config(f"{name}.py"))
    start = cfg.load_from or cfg.model.backbone.init_cfg.checkpoint
    assert start == "mmdualtoken://tiny" and cfg.model.backbone.arch == "tiny"
    assert cfg.model.backbone.get("out_norm_cfg", dict(type="LN"))["type"] == "LN"
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters
    reader = cfg.get("data_preprocessor") or cfg.model.data_preprocessor
    assert reader.mean == [123.675, 116.28, 103.53]
    assert reader.get("bgr_to_rgb", reader.get("to_rgb")) is True


@pytest.mark.parametrize(
    "name",
    [*(OURS[k] for k in ("maskrcnn_1x", "deeplabv3_160k", "in1k")), "mmdet/rtmdet_dualtoken_t"],
)
def test_weight_decay(name):
    """None on the backbone's 1-D parameters and global tokens; the recipe's on all others."""
    cfg = load(name)
    init_default_scope(cfg.default_scope)
    model = nn.ModuleDict(dict(backbone=DualTokenViT("tiny", token_mlp="mix")))
    wrapper = build_optim_wrapper(model, dict(type="OptimWrapper") | cfg.optim_wrapper)
    decay = {id(g["params"][0]): g["weight_decay"] for g in wrapper.optimizer.param_groups}
    names = dict(model.named_parameters())
    free = {n for n, p in names.items() if decay[id(p)] == 0}
    assert free == {n for n, p in names.items() if p.ndim == 1} | {"backbone.global_tokens"}
    rest = {decay[id(p)] for n, p in names.items() if n not in free}
    assert rest == {cfg.optim_wrapper.optimizer.weight_decay}
