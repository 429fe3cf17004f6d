"""Every constructor argument: what is refused, with what words, and what is accepted."""

import inspect
import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import NARROW, build
from torch import nn

from mmdualtoken.errors import WrongType, WrongValue
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT, ResizeNeck

NAN, INF = float("nan"), float("inf")
NOT_INTS = [1.0, "1", None, True, NAN, [1], (1,), {}, 1j, np.bool_(True), torch.tensor(1)]
NOT_POSITIVE = [0, -1, -(10**30), np.int64(0)]
NOT_BOOLS = [0, 1, "True", None, [], np.bool_(True)]
NOT_RATES = [-0.1, 1.1, NAN, INF, -INF, 2, Fraction(3, 2), np.float32(1.5), 10**400]
NOT_NUMBERS = ["0.1", None, True, [0.1], (), {}, 1j, torch.tensor(0.1), np.array(0.1)]
NOT_SEQUENCES = [None, "777", b"\x01\x02", 1.5, {1: 2}, {1, 2}, iter([1, 2]), np.array([1, 2])]
NOT_CFGS = ["BN", 3, ["BN"], [dict(type="BN")], nn.BatchNorm2d, True]
BAD_INITS = [
    "Pretrained",
    3,
    True,
    "file.pth",
    nn.init.zeros_,
    {},
    dict(type=None),
    dict(type=""),
    dict(type=3),
    dict(type="Nope"),
    dict(checkpoint="file.pth"),
    dict(type="Pretrained"),
    dict(type="Pretrained", checkpoint=""),
    dict(type="Pretrained", checkpoint=None),
    dict(type="PretrainedInit", checkpoint="file.pth"),  # the class's name is not registered
    [dict(type="Xavier", layer="Conv2d"), "Pretrained"],
    [dict(type="Xavier", layer="Conv2d"), dict(type="Nope")],
]


class NoModule:
    """A class that makes no modules."""


class TokensWithoutAttributes(nn.Module):
    """Lacks uses_tokens and grid."""


BAD_CHOICES = ["max", "", "MLP", None, 3, True, ["mlp"], NoModule, int, nn.Identity()]
BAD_NORMS = [
    *NOT_CFGS,
    {},
    dict(eps=1e-6),
    dict(type=None),
    dict(type="Norm"),
    dict(type="LayerNorm"),  # PyTorch's name, not the registry's
    dict(type=["BN"]),
    dict(type=int),
    dict(type="BN1d"),  # builds, and would fail in the first forward
    dict(type="BN3d"),
    dict(type="BN", momentums=0.1),
    dict(type="BN", eps="small"),
    dict(type="BN", eps=-1e-3),
    dict(type="BN", eps=0),
    dict(type="BN", eps=NAN),
    dict(type="GN"),  # needs num_groups
    dict(type="GN", num_groups=7),
    dict(type="GN", num_groups=0),
]
BAD_ARCHS = {
    "embed_dims": [(0, 24, 32), (4, 24, 32), (18, 24, 32), (-16, 24, 32), (16.0, 24, 32)],
    "depths": [(0, 2, 2), (-1, 2, 2), (1.5, 2, 2), (True, 2, 2), ("1", 2, 2), (None, 2, 2)],
    "num_heads": [
        (0, 2, 4),
        (-2, 2, 4),
        (3, 2, 4),
        (2, 5, 4),
        (32, 2, 4),
        (2.0, 2, 4),
        (NAN, 2, 4),
    ],
    "ffn_ratios": [
        *[(r, 4, 4) for r in (0, -4, NAN, INF, -INF, 0.01, 2.7, 1e6, True, "4", None, 1j)],
        *[(4, 4, r) for r in (np.float64("nan"), 1 / 3)],
    ],
    "kernel_sizes": [(k, 7, None) for k in (4, 0, -3, 3.0, "5", True, NAN, (5, 5))],
    "down_convs": [(n, 0, 0) for n in (-1, 1.0, None, "1", True, NAN)],
}
BAD_BACKBONE = {
    "arch": ["large", "", "Tiny", None, 3, True, [16, 24, 32], {}, {**NARROW, "depth": (1, 1, 1)}],
    "in_channels": [*NOT_INTS, *NOT_POSITIVE],
    "token_size": [
        *NOT_SEQUENCES,
        *[7, True, (), (7,), (7, 7, 7), (7, 0), (0, 7), (-7, -7), (7.0, 7), (True, 7), (NAN, 7)],
        *[("7", "7"), (None, 7), (64, 65), (10**9, 10**9), [[7, 7]], ((7, 7), (7, 7))],
    ],
    "token_mlp": BAD_CHOICES,
    "token_module": [*BAD_CHOICES, TokensWithoutAttributes],
    "local_encoder": BAD_CHOICES,
    "downsample": BAD_CHOICES,
    "alpha": [*NOT_RATES, *NOT_NUMBERS],
    "out_indices": [
        *NOT_SEQUENCES,
        *[3, -1, True, (), [], (3,), (-1,), (0, 1, 2, 3), (1, 0), (1, 1), (0, 2, 1), (1.0,)],
        *[("0",), (None,), (True,), ([0],), (0, [1]), (NAN,), range(4)],
    ],
    "out_norm_cfg": [*BAD_NORMS, dict(type="LN", momentum=0.1), dict(type="LN", eps=None)],
    "drop_path_rate": [*NOT_RATES, *NOT_NUMBERS, 1.0, 1, np.float64(1)],
    "norm_eval": NOT_BOOLS,
    "frozen_stages": [*NOT_INTS, -2, 4, 10**30],
    "with_cp": NOT_BOOLS,
    "init_cfg": BAD_INITS,
}
BAD_CLS_NECK = {
    "in_channels": [*NOT_INTS, *NOT_POSITIVE],
    "out_channels": [*NOT_INTS, *NOT_POSITIVE],
    "init_cfg": BAD_INITS,
}
BAD_RESIZE_NECK = {
    "source": NOT_INTS,
    "target": NOT_INTS,
    "mode": ["cubic", "", "linear", "trilinear", None, 3, True, ["bilinear"]],
    "init_cfg": BAD_INITS,
}
BAD_FPN = {
    "in_channels": [
        *NOT_SEQUENCES,
        *[3, [], (), [0, 1], [-16, 24], [16.0], ["16"], [None], [True], [NAN], [[16, 24]]],
    ],
    "out_channels": [*NOT_INTS, *NOT_POSITIVE],
    "num_outs": [*NOT_INTS, *NOT_POSITIVE],
    "norm_cfg": [*BAD_NORMS, dict(type="LN")],  # mmcv's LN is over the last axes
    "act_cfg": [*NOT_CFGS, {}, dict(type=None), dict(type="ReLO"), dict(type="ReLU", slope=2)],
    "init_cfg": BAD_INITS,
}


def shown(value):
    """A value in a test's id, which must not change from process to process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))[:40]


def cases(table):
    """(argument, value) pairs with legible ids."""
    return [
        pytest.param(argument, value, id=f"{argument}-{i}-{shown(value)}")
        for argument, values in table.items()
        for i, value in enumerate(values)
    ]


def fpn_class():
    reason = "DualTokenFPN builds on mmdet's FPN, which a classification-only installation lacks"
    pytest.importorskip("mmdet", reason=reason)
    from mmdualtoken.models.necks import DualTokenFPN

    return DualTokenFPN


def refused(owner, argument, value, make):
    """The message of the error names the class, the argument, the value and what is allowed."""
    with warnings.catch_warnings():
        # Nothing may be built that PyTorch warns of on the way, such as layers without elements.
        warnings.simplefilter("error", UserWarning)
        with pytest.raises((ValueError, TypeError)) as caught:
            make()
    message = str(caught.value)
    assert type(caught.value) in (WrongValue, WrongType)
    assert message.startswith(f"{owner}: {argument}")
    # The value, or what of it is wrong: ranges etc. become tuples.
    assert f"{value!r}" in message or f"={value}" in message, message
    assert "allowed is" in message or "need num_outs >=" in message
    return message


@pytest.mark.parametrize(("argument", "value"), cases(BAD_BACKBONE))
def test_backbone_refuses(argument, value):
    refused("DualTokenViT", argument, value, lambda: build(**{argument: value}))


@pytest.mark.parametrize(("key", "value"), cases(BAD_ARCHS))
def test_backbone_refuses_an_arch(key, value):
    with pytest.raises((ValueError, TypeError)) as caught:
        build(arch={**NARROW, key: value})
    message = str(caught.value)
    assert type(caught.value) in (WrongValue, WrongType)
    assert message.startswith("DualTokenViT: arch")
    assert "allowed is" in message
    if key != "num_heads" or "multiple" not in message:  # that one is said of the embed_dims
        assert key in message
    assert any(f"{v!r}" in message for v in value)


@pytest.mark.parametrize("key", BAD_ARCHS)
@pytest.mark.parametrize("value", [*NOT_SEQUENCES, 3, (), (1, 2), (8, 8, 8, 8)], ids=shown)
def test_backbone_refuses_an_arch_of_other_than_three_values(key, value):
    with pytest.raises((ValueError, TypeError), match="three values") as caught:
        build(arch={**NARROW, key: value})
    assert str(caught.value).startswith(f"DualTokenViT: arch[{key!r}]={value!r}")


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None, True, (64, 65), (0, 8), (8,), 4097])
@pytest.mark.parametrize("tokens", ["normal", "msa"])
def test_backbone_refuses_a_number_of_tokens(tokens, value):
    make = lambda: build(token_module=tokens, token_size=value)  # noqa: E731
    assert "the number of tokens" in refused("DualTokenViT", "token_size", value, make)


@pytest.mark.parametrize(("argument", "value"), cases(BAD_CLS_NECK))
def test_cls_neck_refuses(argument, value):
    make = lambda: DualTokenClsNeck(**{"in_channels": 16, argument: value})  # noqa: E731
    refused("DualTokenClsNeck", argument, value, make)


@pytest.mark.parametrize(("argument", "value"), cases(BAD_RESIZE_NECK))
def test_resize_neck_refuses(argument, value):
    refused("ResizeNeck", argument, value, lambda: ResizeNeck(**{argument: value}))


@pytest.mark.parametrize(("argument", "value"), cases(BAD_FPN))
def test_fpn_refuses(argument, value):
    settings = {"in_channels": [16, 24], "out_channels": 8, argument: value}
    refused("DualTokenFPN", argument, value, lambda: fpn_class()(**settings))


@pytest.mark.parametrize(
    ("owner", "table"),
    [
        (DualTokenViT, BAD_BACKBONE),
        (DualTokenClsNeck, BAD_CLS_NECK),
        (ResizeNeck, BAD_RESIZE_NECK),
        (None, BAD_FPN),
    ],
    ids=["DualTokenViT", "DualTokenClsNeck", "ResizeNeck", "DualTokenFPN"],
)
def test_no_argument_is_left_out(owner, table):
    assert set(table) == set(inspect.signature(owner or fpn_class()).parameters)
    assert set(BAD_ARCHS) == set(NARROW) | set(DualTokenViT.arch_defaults)


# ---------------------------------------------------------------- in the forward


@pytest.mark.parametrize("value", [-4, 3, 10])
@pytest.mark.parametrize("argument", ["source", "target"])
def test_resize_neck_without_such_a_map(argument, value):
    maps = [torch.zeros(1, 4, 8 >> i, 8 >> i) for i in range(3)]
    neck = ResizeNeck(**{argument: value})
    assert "3 maps received" in refused("ResizeNeck", argument, value, lambda: neck(maps))


@pytest.mark.parametrize("channels", [16, 33])
def test_cls_neck_on_a_map_of_other_channels(channels):
    with pytest.raises(ValueError) as caught:
        DualTokenClsNeck(32, 40)((torch.zeros(1, channels, 4, 4),))
    for part in ("DualTokenClsNeck", str(channels), "in_channels is 32", "out_indices"):
        assert part in str(caught.value)
