"""Depths of the backbone's parameters, and learning rates by depth in the three toolboxes."""

from pathlib import Path

import pytest
from helpers import build, log_lines
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmdualtoken.errors import InputError

CONFIGS = Path(__file__).resolve().parent / "configs"
TOOLBOXES = dict(mmdet="maskrcnn_narrow", mmseg="fcn_narrow", mmpretrain="classifier_narrow")
LR, RATE = 1e-3, 0.5

# Depths (1, 2, 2) in NARROW: blocks are layers 1, 2-3 and 4-5, the seventh follows them.
DEPTHS = {
    "global_tokens": 0,
    "stem.convs.0.weight": 0,
    "stem.norm.bias": 0,
    "stages.0.blocks.0.norm1.weight": 1,
    "stages.1.merging.reduction.weight": 2,
    "stages.1.token_proj.proj.weight": 2,
    "stages.1.blocks.0.token_module.mlp.fc1.bias": 2,
    "stages.1.blocks.1.local_encoder.gamma": 3,
    "stages.2.merging.norm.weight": 4,
    "stages.2.blocks.0.ffn.fc1.weight": 4,
    "stages.2.blocks.1.proj.weight": 5,
    "norm0.weight": 6,
    "norm2.bias": 6,
}


def test_depth():
    model = build()
    assert DEPTHS.keys() <= dict(model.named_parameters()).keys()
    for name, depth in DEPTHS.items():
        assert model.get_layer_depth(f"backbone.{name}") == (depth, 7)
        assert model.get_layer_depth(name, "") == (depth, 7)
    for outside in ("neck.convs.0.weight", "stem.norm.bias"):  # another one's stem
        assert model.get_layer_depth(outside) == (6, 7)


@pytest.mark.parametrize(
    "settings, layers",
    [(dict(arch="tiny"), 14), (dict(arch="small"), 16), (dict(out_indices=(0, 1)), 5)],
)
def test_every_layer_has_parameters(settings, layers):
    """Every depth from the stem to the outputs occurs, and each belongs to one block."""
    model = build(**settings)
    found = {model.get_layer_depth(name, "") for name, _ in model.named_parameters()}
    assert found == {(depth, layers) for depth in range(layers)}
    blocks = {}
    for name, _ in model.named_parameters():
        if ".blocks." in name:
            depth = model.get_layer_depth(name, "")[0]
            blocks.setdefault(depth, set()).add(tuple(name.split(".")[:4]))
    assert all(len(names) == 1 for names in blocks.values())
    assert sorted(blocks) == list(range(1, layers - 1))


def narrow_model(toolbox, **backbone):
    cfg = Config.fromfile(CONFIGS / f"{TOOLBOXES[toolbox]}.py")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(backbone)
    return MODELS.build(cfg.model)


def optimizer_cfg(constructor="LayerDecayOptimWrapperConstructor", **paramwise):
    return dict(
        type="OptimWrapper",
        constructor=constructor,
        optimizer=dict(type="AdamW", lr=LR, weight_decay=0.1),
        paramwise_cfg={"layer_decay_rate": RATE, **paramwise},
    )


def groups_of(wrapper, model):
    """Learning rate and weight decay of each parameter by name."""
    names = {id(p): n for n, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


@pytest.mark.parametrize("toolbox", TOOLBOXES)
def test_values_in_a_toolbox(toolbox):
    """Depths (1, 1, 1): five layers, so that the stem learns at 0.5 ** 4 of the rate."""
    model = narrow_model(toolbox)
    tokens = {"global_tokens": dict(decay_mult=0.0)}
    cfg = optimizer_cfg(flat_decay_mult=0.0, custom_keys=tokens)
    with log_lines() as lines:
        groups = groups_of(build_optim_wrapper(model, cfg), model)
    assert groups.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    expected = {
        "backbone.global_tokens": (LR / 16, 0.0),
        "backbone.stem.convs.0.weight": (LR / 16, 0.1),
        "backbone.stem.norm.weight": (LR / 16, 0.0),
        "backbone.stages.0.blocks.0.proj.weight": (LR / 8, 0.1),
        "backbone.stages.1.merging.reduction.weight": (LR / 4, 0.1),
        "backbone.stages.2.blocks.0.proj.bias": (LR / 2, 0.0),
        "backbone.norm2.weight": (LR, 0.0),
    }
    for name, (lr, decay) in expected.items():
        assert groups[name] == (pytest.approx(lr), decay), name
    outside = {name: lr for name, (lr, _) in groups.items() if not name.startswith("backbone.")}
    assert len(outside) >= 4
    assert set(outside.values()) == {LR}
    (line,) = [line for line in lines if line.startswith("layer decay 0.5")]
    assert "DualTokenViT multiplied by depth, from 0.0625 to 1," in line


def test_same_scales_as_mmpretrain():
    model = narrow_model("mmpretrain")
    theirs = optimizer_cfg("LearningRateDecayOptimWrapperConstructor", flat_decay_mult=0.0)
    ours = optimizer_cfg(flat_decay_mult=0.0)
    expected = groups_of(build_optim_wrapper(model, theirs), model)
    found = groups_of(build_optim_wrapper(model, ours), model)
    assert len(found) > 50
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


class Detector(nn.Module):
    def __init__(self, backbone=None, **settings):
        super().__init__()
        self.backbone = backbone or build(**settings)
        self.head = nn.Linear(4, 4)


def test_multipliers_of_the_config_stay():
    """custom_keys multiply on top; frozen parameters are left out. Also in DDP's wrapper."""
    model, holder = Detector(frozen_stages=0), nn.Module()
    holder.module = model
    keys = {"stages.0": dict(lr_mult=10.0), "head": dict(lr_mult=3.0)}
    groups = groups_of(build_optim_wrapper(holder, optimizer_cfg(custom_keys=keys)), model)
    assert groups["backbone.stages.0.blocks.0.proj.weight"][0] == pytest.approx(LR * 10 / 32)
    assert groups["head.bias"][0] == pytest.approx(3 * LR)
    assert not any(name.startswith("backbone.stem") for name in groups)


@pytest.mark.parametrize("rate", [0, 1.01, None, "0.8", True])
def test_rate_out_of_range(rate):
    with pytest.raises(InputError, match=rf"layer_decay_rate={rate!r}"):
        build_optim_wrapper(Detector(), optimizer_cfg(layer_decay_rate=rate))


def test_what_cannot_be_decayed():
    with pytest.raises(InputError, match="of type Linear, which has no get_layer_depth"):
        build_optim_wrapper(Detector(backbone=nn.Linear(2, 2)), optimizer_cfg())
    with pytest.raises(InputError, match="backbone of Linear is of type NoneType"):
        build_optim_wrapper(nn.Linear(2, 2), optimizer_cfg())
    cfg = optimizer_cfg()
    del cfg["paramwise_cfg"]
    with pytest.raises(InputError, match="layer_decay_rate=None"):
        build_optim_wrapper(Detector(), cfg)
    cfg = optimizer_cfg()
    cfg["optimizer"] = dict(type="Adadelta")
    with pytest.raises(InputError, match="has no lr"):
        build_optim_wrapper(Detector(), cfg)
