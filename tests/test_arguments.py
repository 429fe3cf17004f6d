"""Wrong arguments: each rule refuses with the argument, the value and what is allowed."""

import pytest
import torch
from helpers import NARROW, build
from torch import nn

from mmdualtoken.errors import WrongType, WrongValue
from mmdualtoken.models import DualTokenClsNeck, DualTokenViTStride4, ResizeNeck

NAN = float("nan")


class NoModule:
    """A class that makes no modules."""


def fpn(**settings):
    reason = "DualTokenFPN builds on mmdet's FPN, which a classification-only installation lacks"
    pytest.importorskip("mmdet", reason=reason)
    from mmdualtoken.models.necks import DualTokenFPN

    return DualTokenFPN(**{"in_channels": [16, 24], "out_channels": 8, **settings})


#: (argument, wrong value, error, what the message says is allowed): one line per rule.
BACKBONE = [
    ("in_channels", 3.0, WrongType, "an int from 1"),
    ("in_channels", 0, WrongValue, "an int from 1"),
    ("frozen_stages", True, WrongType, "an int, -1 to 3"),
    ("frozen_stages", 4, WrongValue, "an int, -1 to 3"),
    ("frozen_stages", -2, WrongValue, "an int, -1 to 3"),
    ("alpha", "high", WrongType, "a number, 0 to 1"),
    ("alpha", 1.1, WrongValue, "a number, 0 to 1"),
    ("alpha", NAN, WrongValue, "a number, 0 to 1"),
    ("drop_path_rate", 1.0, WrongValue, "a number, 0 to 1, without 1"),
    ("token_size", None, WrongType, "positive ints or one int, for n x n, at most 4096 tokens"),
    ("token_size", "77", WrongType, "a pair (h, w)"),
    ("token_size", 65, WrongValue, "at most 4096 tokens"),
    ("token_size", (7, 7, 7), WrongValue, "a pair (h, w)"),
    ("token_size", (7.0, 7), WrongValue, "a pair (h, w)"),
    ("token_size", (7, 0), WrongValue, "a pair (h, w)"),
    ("token_size", (64, 65), WrongValue, "at most 4096 tokens"),
    ("out_indices", 1.5, WrongType, "rising indices from (0, 1, 2)"),
    ("out_indices", (), WrongValue, "rising indices from (0, 1, 2)"),
    ("out_indices", ("0",), WrongValue, "rising indices from (0, 1, 2)"),
    ("out_indices", (1, 0), WrongValue, "rising indices from (0, 1, 2)"),
    ("out_indices", (1, 1), WrongValue, "rising indices from (0, 1, 2)"),
    ("out_indices", (-1,), WrongValue, "rising indices from (0, 1, 2)"),
    ("out_indices", (3,), WrongValue, "rising indices from (0, 1, 2)"),
    ("token_mlp", "max", WrongValue, "one of ['mix', 'mlp'] or a class"),
    ("token_mlp", NoModule, WrongValue, "or a class of nn.Module"),
    ("token_module", 3, WrongValue, "one of ['msa', 'none', 'normal', 'position_aware']"),
    ("local_encoder", nn.Identity(), WrongValue, "one of ['conv', 'window']"),
    ("downsample", "", WrongValue, "one of ['onestep', 'stepwise']"),
    ("arch", "large", WrongValue, "a str of ['small', 'tiny'] or a dict"),
    ("arch", 3, WrongType, "a str of ['small', 'tiny'] or a dict"),
    ("arch", {}, WrongValue, "['depths', 'embed_dims', 'ffn_ratios', 'num_heads']"),
    ("arch", {**NARROW, "depth": (1, 1, 1)}, WrongValue, "optionally ['down_convs', 'kernel"),
    ("out_norm_cfg", "BN", WrongType, "None or a dict such as dict(type='BN')"),
    ("out_norm_cfg", {}, WrongValue, "KeyError: 'type'"),
    ("out_norm_cfg", dict(type="Norm"), WrongValue, "for maps (B, 16, H, W) (KeyError:"),
    ("out_norm_cfg", dict(type="BN", momentums=0.1), WrongValue, "'momentums'"),
    ("out_norm_cfg", dict(type="BN1d"), WrongValue, "expected 2D or 3D input"),
    ("out_norm_cfg", dict(type="LN", eps=NAN), WrongValue, "returns NaN"),
    ("out_norm_cfg", dict(type="LN", momentum=0.1), WrongValue, "only eps and requires_grad"),
    ("init_cfg", "Pretrained", WrongValue, "None, or a dict (or a list of them)"),
    ("init_cfg", {}, WrongValue, 'must contain the key "type"'),
    ("init_cfg", dict(type="Nope"), WrongValue, "Nope is not in"),
    ("init_cfg", dict(type="Pretrained"), WrongValue, "'checkpoint')"),
    ("init_cfg", dict(type="Pretrained", checkpoint=""), WrongValue, "FILE is a path or URL"),
    ("init_cfg", dict(type="Pretrained", checkpoint=None), WrongValue, "FILE is a path or URL"),
    ("init_cfg", [dict(type="Xavier"), "Pretrained"], WrongValue, "(or a list of them)"),
]
#: The same for the values of an arch, of which one is wrong.
ARCH = [
    ("embed_dims", (16.0, 24, 32), "three values, multiples of 4 from 8"),
    ("embed_dims", (4, 24, 32), "three values, multiples of 4 from 8"),
    ("embed_dims", (18, 24, 32), "three values, multiples of 4 from 8"),
    ("depths", (0, 2, 2), "three values, positive ints"),
    ("depths", (1, 2), "three values, positive ints"),
    ("depths", 3, "three values, positive ints"),
    ("num_heads", (2, 0, 4), "three values, positive ints"),
    ("ffn_ratios", (NAN, 4, 4), "three values, positive numbers to 1024"),
    ("ffn_ratios", ("4", 4, 4), "three values, positive numbers to 1024"),
    ("kernel_sizes", (4, 7, None), "three values, odd ints or None"),
    ("down_convs", (-1, 0, 0), "three values, ints from 0"),
]
RESIZE = ("cubic", "['area', 'bicubic', 'bilinear', 'nearest', 'nearest-exact']")
OTHERS = [
    (lambda **s: DualTokenClsNeck(**{"in_channels": 16, **s}), "in_channels", 0, "an int from 1"),
    (lambda **s: DualTokenClsNeck(16, **s), "out_channels", 0, "an int from 1"),
    (lambda **s: DualTokenClsNeck(16, **s), "init_cfg", dict(type="Nope"), "None, or a dict"),
    (lambda **s: ResizeNeck(**s), "mode", *RESIZE),
    (lambda **s: ResizeNeck(**s), "init_cfg", dict(type="Nope"), "None, or a dict"),
    (lambda **s: DualTokenViTStride4(NARROW, **s), "fine_blocks", -1, "an int from 0"),
    (fpn, "in_channels", [16.0], "a list of ints, one per map"),
    (fpn, "out_channels", 0, "an int from 1"),
    (fpn, "num_outs", 0, "an int from 1"),
    (fpn, "norm_cfg", dict(type="LN"), "for maps (B, 8, H, W) (RuntimeError"),
    (fpn, "act_cfg", dict(type="ReLO"), "for maps (B, 8, H, W) (KeyError"),
    (fpn, "init_cfg", dict(type="Nope"), "None, or a dict"),
]


def message(make, argument, value, error=WrongValue):
    with pytest.raises(error) as caught:
        make(**{argument: value})
    assert f": {argument}={value!r}; allowed is " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("argument", "value", "error", "allowed"), BACKBONE, ids=str)
def test_backbone(argument, value, error, allowed):
    text = message(build, argument, value, error)
    assert text.startswith("DualTokenViT: ") and allowed in text.partition("; allowed is ")[2]


@pytest.mark.parametrize(("key", "value", "allowed"), ARCH, ids=str)
def test_values_of_an_arch(key, value, allowed):
    with pytest.raises(WrongValue) as caught:
        build(arch={**NARROW, key: value})
    assert str(caught.value) == f"DualTokenViT: arch[{key!r}]={value!r}; allowed is {allowed}"


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(WrongValue, match="arch: embed_dims=24; .*multiple of its num_heads, 5"):
        build(arch={**NARROW, "num_heads": (2, 5, 4)})


@pytest.mark.parametrize("ratio", [2.7, 0.01])
def test_ratios_of_no_whole_number_of_channels(ratio):
    with pytest.raises(WrongValue, match=f"arch: ffn_ratios={ratio}; .*such as [0-9]+/16"):
        build(arch={**NARROW, "ffn_ratios": (ratio, 4, 4)})


@pytest.mark.parametrize("value", [0, (8,), 4097])
@pytest.mark.parametrize("tokens", ["normal", "msa"])
def test_numbers_of_tokens_without_a_grid(tokens, value):
    text = message(lambda **s: build(token_module=tokens, **s), "token_size", value)
    assert "one int, the number of tokens" in text


@pytest.mark.parametrize(("make", "argument", "value", "allowed"), OTHERS)
def test_necks_and_stride4(make, argument, value, allowed):
    assert allowed in message(make, argument, value).partition("; allowed is ")[2]


def test_nothing_is_built_of_a_wrong_argument(recwarn):
    """PyTorch warns of layers without elements, which an in_channels of 0 would make."""
    message(build, "in_channels", 0)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


# ---------------------------------------------------------------- in the forward


@pytest.mark.parametrize("argument", ["source", "target"])
def test_resize_neck_without_such_a_map(argument):
    with pytest.raises(IndexError):
        ResizeNeck(**{argument: 3})([torch.zeros(1, 4, 8 >> i, 8 >> i) for i in range(3)])


@pytest.mark.parametrize("channels", [16, 33])
def test_cls_neck_on_a_map_of_other_channels(channels):
    with pytest.raises(WrongValue) as caught:
        DualTokenClsNeck(32, 40)((torch.zeros(1, channels, 4, 4),))
    for part in ("DualTokenClsNeck", str(channels), "in_channels is 32", "out_indices"):
        assert part in str(caught.value)
