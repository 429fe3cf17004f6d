"""Accepted forms of constructor arguments: numpy's numbers, lists, ConfigDict, classes."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import NARROW, build, params, rand
from mmengine.config import Config, ConfigDict
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from mmdualtoken.models import DualTokenClsNeck, DualTokenViT, ResizeNeck
from mmdualtoken.models.blocks import FFN
from mmdualtoken.models.tokens import NoTokens, TokenMixMLP

NO_MMDET = "DualTokenFPN builds on mmdet's FPN, which a classification-only installation lacks"


@pytest.fixture
def fpn_class():
    pytest.importorskip("mmdet", reason=NO_MMDET)
    from mmdualtoken.models.necks import DualTokenFPN

    return DualTokenFPN


INT, FLOAT = np.int64, np.float32
SAME = {
    "lists": (
        dict(arch={k: list(v) for k, v in NARROW.items()}, token_size=[3, 5], out_indices=[0, 2]),
        dict(arch=NARROW, token_size=(3, 5), out_indices=(0, 2)),
    ),
    "numpy": (
        dict(
            arch={k: [INT(n) for n in v] for k, v in NARROW.items()},
            in_channels=INT(3),
            token_size=(INT(3), INT(5)),
            out_indices=[INT(0), INT(2)],
            alpha=FLOAT(0.25),
            drop_path_rate=FLOAT(0.5),
            frozen_stages=INT(1),
        ),
        dict(
            arch=NARROW,
            token_size=(3, 5),
            out_indices=(0, 2),
            alpha=0.25,
            drop_path_rate=0.5,
            frozen_stages=1,
        ),
    ),
    "one index": (dict(out_indices=INT(1)), dict(out_indices=(1,))),
    "range": (dict(out_indices=range(3)), dict(out_indices=(0, 1, 2))),
    "fraction": (dict(alpha=Fraction(1, 4)), dict(alpha=0.25)),
    "ends of a range": (dict(alpha=1, drop_path_rate=0), dict(alpha=1.0, drop_path_rate=0.0)),
    "number of tokens": (
        dict(token_module="normal", token_size=INT(8)),
        dict(token_module="normal", token_size=(1, 8)),
    ),
    "square grid": (dict(token_size=5), dict(token_size=(5, 5))),
    "largest grid": (dict(token_size=[64, 64]), dict(token_size=(64, 64))),
    # Configs write it to replace a base's dict; MMEngine leaves it where the base has none.
    "_delete_": (
        dict(arch=dict(NARROW, _delete_=True), out_norm_cfg=dict(type="BN", _delete_=True)),
        dict(arch=NARROW, out_norm_cfg=dict(type="BN")),
    ),
    "LN by its class": (
        dict(out_norm_cfg=dict(type=nn.LayerNorm, eps=1e-3)),
        dict(out_norm_cfg=dict(type="LN", eps=1e-3)),
    ),
    "BN by its class": (
        dict(out_norm_cfg=dict(type=nn.BatchNorm2d)),
        dict(out_norm_cfg=dict(type="BN")),
    ),
    "ratio whose product is not exact": (
        dict(arch=dict(NARROW, embed_dims=(60, 24, 32), ffn_ratios=(2.05, 1 / 3, 4))),
        dict(arch=dict(NARROW, embed_dims=(60, 24, 32), ffn_ratios=(123 / 60, 8 / 24, 4))),
    ),
}


def plain(value):
    """All containers and numbers in it are Python's own."""
    if isinstance(value, (tuple, list)):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(map(plain, value.values()))
    return type(value) in (int, float, bool, str, type, type(None)) or isinstance(value, type)


@pytest.mark.parametrize("form", SAME)
def test_forms_that_mean_the_same(form):
    given, meant = (build(**settings) for settings in SAME[form])
    shapes = {n: v.shape for n, v in params(given).items()}
    assert shapes == {n: v.shape for n, v in params(meant).items()}
    for name in ("arch", "token_size", "out_indices", "alpha", "out_norm_cfg", "frozen_stages"):
        assert plain(getattr(given, name)), name
        if form not in ("LN by its class", "BN by its class", "ratio whose product is not exact"):
            assert getattr(given, name) == getattr(meant, name), name
    given.load_state_dict(meant.state_dict())
    image = rand(1, 3, 33, 40, dtype=torch.float32)
    for out, value in zip(given.eval()(image), meant.eval()(image), strict=True):
        assert torch.equal(out, value)


def test_a_config_file(tmp_path):
    """As a config gives them: ConfigDict for dicts, lists for tuples."""
    file = tmp_path / "config.py"
    settings = dict(
        arch={k: list(v) for k, v in NARROW.items()},
        token_size=[3, 5],
        out_indices=[0, 2],
        out_norm_cfg=dict(type="BN", requires_grad=True),
        init_cfg=[dict(type="Constant", layer="Linear", val=0.5)],
    )
    file.write_text(f"model = {settings!r}")
    model = Config.fromfile(file).model
    assert isinstance(model.arch, ConfigDict)
    backbone = DualTokenViT(**model)
    assert set(params(backbone)) == set(params(DualTokenViT(**settings)))
    backbone.init_weights()
    assert (backbone.stages[0].blocks[0].ffn.fc1.weight == 0.5).all()


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("kind", ["LN", "BN"])
def test_requires_grad_of_the_output_norm(kind, requires_grad):
    model = build(out_norm_cfg=dict(type=kind, requires_grad=requires_grad))
    for i in range(3):
        norm = getattr(model, f"norm{i}")
        assert isinstance(norm, dict(LN=LayerNorm2d, BN=nn.BatchNorm2d)[kind])
        assert norm.weight.requires_grad == norm.bias.requires_grad == requires_grad


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="GN", num_groups=8),
        dict(type="IN", affine=True),
        dict(type="SyncBN"),
        dict(type=LayerNorm2d),
    ],
    ids=str,
)
def test_other_output_norms(cfg):
    for out in build(out_norm_cfg=cfg).eval()(rand(2, 3, 64, 64, dtype=torch.float32)):
        assert out.isfinite().all()
        assert out.std() > 0.1


def test_groups_need_to_suit_the_maps_given_out_only():
    cfg = dict(type="GN", num_groups=16)  # 16 and 32 channels have 16 groups, 24 do not
    assert build(out_indices=(0, 2), out_norm_cfg=cfg).norm2.num_groups == 16
    with pytest.raises(ValueError, match=r"\(B, 24, H, W\) \(.*divisible"):
        build(out_indices=(0, 1, 2), out_norm_cfg=cfg)


@pytest.mark.parametrize(
    "init_cfg",
    [
        None,
        [],
        dict(type="Xavier", layer="Conv2d"),
        [dict(type="Xavier", layer="Conv2d"), dict(type="Constant", layer="LayerNorm", val=1)],
        dict(type="Pretrained", checkpoint="file.pth"),
        dict(type="mmengine.Pretrained", checkpoint=Path("file.pth")),
        dict(type="Pretrained", checkpoint="https://host/file.pth", prefix="backbone."),
    ],
    ids=str,
)
def test_init_cfgs(init_cfg, fpn_class):
    assert build(init_cfg=init_cfg).init_cfg == init_cfg
    assert DualTokenClsNeck(16, init_cfg=init_cfg).init_cfg == init_cfg
    assert fpn_class([16], 8, num_outs=2, init_cfg=init_cfg).init_cfg == init_cfg or not init_cfg


def test_the_check_of_norms_changes_nothing_else():
    """Layers are tried while the model is built: the random numbers must not move for that."""
    weights = []
    for cfg in (None, dict(type="LN"), dict(type="BN"), dict(type="GN", num_groups=8)):
        torch.manual_seed(0)
        weights.append(build(out_norm_cfg=cfg).stages[2].blocks[1].proj.weight)
    assert all(torch.equal(weights[0], weight) for weight in weights)
    with torch.device("meta"):
        assert build(out_norm_cfg=dict(type="BN")).norm0.weight.is_meta


def test_necks_take_lists_tuples_and_numpy(fpn_class):
    neck = fpn_class((INT(16), INT(24)), INT(8), num_outs=INT(3))
    assert neck.in_channels == [16, 24]
    outs = neck([torch.zeros(1, 16, 4, 4), torch.zeros(1, 24, 2, 2)])
    assert [tuple(o.shape) for o in outs] == [(1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 2, 2)]
    assert DualTokenClsNeck(INT(16), INT(8))((torch.zeros(2, 16, 4, 4),))[0].shape == (2, 8)
    assert ResizeNeck(INT(1), INT(0))([torch.zeros(1, 4, 4, 4)] * 2)[1].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("dim", "ratio", "hidden"), [(60, 2.05, 123), (60, 8.2, 492), (16, 8, 128)]
)
def test_width_of_the_ffn_is_the_product(dim, ratio, hidden):
    """60 * 2.05 is 122.99999999999999 in floating point."""
    assert FFN(dim, ratio).fc1.out_features == hidden


def test_a_class_of_ones_own():
    class Tokens(NoTokens):
        pass

    class Mix(TokenMixMLP):
        pass

    model = build(token_module=Tokens, token_mlp=Mix)
    assert isinstance(model.stages[0].blocks[0].token_module, Tokens)
