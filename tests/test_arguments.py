"""Constructor arguments: what is refused, naming argument, value and rule, and accepted forms."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import NARROW, build, params, rand
from mmdet.registry import MODELS as DET_MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import nn
from torchvision.models.convnext import LayerNorm2d

from mmdualtoken.errors import InputError, WrongValue
from mmdualtoken.models import DualTokenClsNeck, DualTokenViT, DualTokenViTStride4, ResizeNeck
from mmdualtoken.models.blocks import WindowAttention
from mmdualtoken.models.dualtoken_vit import LOCAL_ENCODERS, TOKEN_MODULES
from mmdualtoken.models.stem import StepwiseDownsample
from mmdualtoken.models.tokens import NoTokens

NAN = float("nan")


class NoModule:
    """A class that makes no modules."""


#: (argument, wrong value, what the message says is allowed): one line per rule and kind of value.
BACKBONE = [
    ("frozen_stages", True, "an int, -1 to 3"),
    ("frozen_stages", 4, "an int, -1 to 3"),
    ("alpha", 1.1, "a number, 0 to 1"),
    ("alpha", NAN, "a number, 0 to 1"),
    # The last block would always drop its branches, and scale what is left by 1 / 0.
    ("drop_path_rate", 1.0, "a number, 0 to 1, without 1"),
    ("token_size", None, "positive ints or one int, for n x n, at most 4096 tokens"),
    ("token_size", 65, "at most 4096 tokens"),
    ("token_size", (7, 7, 7), "a pair (h, w)"),
    ("token_size", (7, 0), "a pair (h, w)"),
    ("out_indices", (), "rising indices from (0, 1, 2)"),
    ("out_indices", (1, 1), "rising indices from (0, 1, 2)"),
    ("out_indices", (3,), "rising indices from (0, 1, 2)"),
    ("token_mlp", "max", "one of ['mix', 'mlp'] or a class"),
    ("token_mlp", NoModule, "or a class of nn.Module"),
    ("token_module", nn.Identity, "attributes uses_tokens, grid; missing: uses_tokens, grid"),
    ("local_encoder", nn.GELU, "called with (embed_dims, num_heads, kernel_size) (too many"),
    ("downsample", nn.Conv2d, "called with (embed_dims, num_convs) (missing"),
    ("token_module", 3, "one of ['msa', 'none', 'normal', 'position_aware']"),
    ("local_encoder", nn.Identity(), "one of ['conv', 'window']"),
    ("downsample", "", "one of ['onestep', 'stepwise']"),
    ("downsample", "torch.nn.Nope", "its import path 'package.module.Class'"),
    ("downsample", "torch.nn", "its name in the registry MODELS"),
    ("arch", "large", "a str of ['small', 'tiny'] or a dict"),
    ("arch", {}, "['depths', 'embed_dims', 'ffn_ratios', 'num_heads']"),
    ("arch", {**NARROW, "depth": (1, 1, 1)}, "optionally ['down_convs', 'kernel"),
    ("in_channels", 0, "an int from 1"),
    ("out_norm_cfg", "BN", "None for no norm, or a dict such as"),
    ("out_norm_cfg", dict(eps=1e-6), "None for no norm, or a dict such as"),
    ("init_cfg", "Pretrained", "None, or a dict (or a list of them)"),
    ("init_cfg", dict(type="Nope"), "Nope is not in"),
    ("init_cfg", [dict(type="Xavier"), dict(type="Pretrained")], "'checkpoint')"),
    ("init_cfg", dict(type="StemContrast", nois=0.3), "unexpected keyword"),
]
#: The same for the values of an arch, of which one is wrong.
ARCH = [
    ("embed_dims", (18, 24, 32), "three values, multiples of 4 from 8"),
    ("depths", (0, 2, 2), "three values, positive ints"),
    ("num_heads", (2, 0, 4), "three values, positive ints"),
    ("ffn_ratios", (NAN, 4, 4), "three values, positive numbers to 1024"),
    ("kernel_sizes", (4, 7, None), "three values, odd ints or None"),
    ("down_convs", (-1, 0, 0), "three values, ints from 0"),
]


@pytest.mark.parametrize(
    ("argument", "value", "name", "allowed"),
    [(a, v, f"{a}={v!r}", t) for a, v, t in BACKBONE]
    + [("arch", {**NARROW, k: v}, f"arch[{k!r}]={v!r}", t) for k, v, t in ARCH]
    + [
        ("arch", {**NARROW, "num_heads": (2, 5, 4)}, "arch: embed_dims=24", "its num_heads, 5"),
        ("arch", {**NARROW, "ffn_ratios": (2.7, 4, 4)}, "arch: ffn_ratios=2.7", "such as 43/16"),
        ("arch", {**NARROW, "ffn_ratios": (0.01, 4, 4)}, "arch: ffn_ratios=0.01", "such as 1/16"),
    ],
    ids=str,
)
def test_refused(argument, value, name, allowed, monkeypatch):
    """By the registry, as a config does; an error of the user's, and a ValueError."""
    for table in (TOKEN_MODULES, LOCAL_ENCODERS):
        for key, cls in list(table.items()):
            if cls.__module__.startswith("learning."):  # other tests of this process add them
                monkeypatch.delitem(table, key)
    with pytest.raises(WrongValue) as caught:
        MODELS.build(dict(type="DualTokenViT", **{"arch": NARROW, argument: value}))
    start, _, rule = str(caught.value).partition("; allowed is ")
    assert start.endswith(f"DualTokenViT: {name}") and allowed in rule
    assert isinstance(caught.value, InputError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("tokens", ["normal", "msa"])
def test_numbers_of_tokens_without_a_grid(tokens):
    for value in (0, (8,), 4097):
        with pytest.raises(WrongValue, match="token_size=.*one int, the number of tokens"):
            build(token_module=tokens, token_size=value)


def test_other_classes():
    with pytest.raises(WrongValue, match="ResizeNeck: mode='cubic'; .*'bicubic'"):
        ResizeNeck(mode="cubic")
    for value in (-1, 1.0, True, "2"):
        text = f"DualTokenViTStride4: fine_blocks={value!r}; allowed is an int from 0"
        with pytest.raises(WrongValue, match=text):
            DualTokenViTStride4(NARROW, fine_blocks=value)
    with pytest.raises(WrongValue, match="16 channels, in_channels is 32; .*out_indices"):
        DualTokenClsNeck(32, 40)((torch.zeros(1, 16, 4, 4),))


INT, FLOAT = np.int64, np.float32
SAME = {
    "lists": (
        dict(arch={k: list(v) for k, v in NARROW.items()}, token_size=[3, 5], out_indices=[0, 2]),
        dict(token_size=(3, 5), out_indices=(0, 2)),
    ),
    "numpy": (
        dict(
            arch={k: [INT(n) for n in v] for k, v in NARROW.items()},
            token_size=(INT(3), INT(5)),
            out_indices=INT(2),
            alpha=FLOAT(0.25),
            drop_path_rate=FLOAT(0.5),
            frozen_stages=INT(1),
        ),
        dict(token_size=(3, 5), out_indices=(2,), alpha=0.25, drop_path_rate=0.5, frozen_stages=1),
    ),
    "other numbers": (
        dict(alpha=Fraction(1, 4), out_indices=range(3), drop_path_rate=0),
        dict(alpha=0.25, out_indices=(0, 1, 2), drop_path_rate=0.0),
    ),
    "number of tokens": (
        dict(token_module="normal", token_size=INT(8)),
        dict(token_module="normal", token_size=(1, 8)),
    ),
    "square grid": (dict(token_size=5), dict(token_size=(5, 5))),
    # Configs write it to replace a base's dict; MMEngine leaves it where the base has none.
    "_delete_": (
        dict(arch=dict(NARROW, _delete_=True), out_norm_cfg=dict(type="BN", _delete_=True)),
        dict(out_norm_cfg=dict(type="BN")),
    ),
    "LN by its class": (
        dict(out_norm_cfg=dict(type=nn.LayerNorm, eps=1e-3)),
        dict(out_norm_cfg=dict(type="LN", eps=1e-3)),
    ),
    # 60 * 2.05 is 122.99999999999999 in floating point.
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
    return type(value) in (int, float, bool, str, type, type(None))


@pytest.mark.parametrize("form", SAME)
def test_forms_that_mean_the_same(form):
    given, meant = (build(**settings) for settings in SAME[form])
    for name in ("arch", "token_size", "out_indices", "alpha", "out_norm_cfg", "frozen_stages"):
        assert plain(getattr(given, name)), name
        if form not in ("LN by its class", "ratio whose product is not exact"):
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
    assert settings["arch"] == {k: list(v) for k, v in NARROW.items()}  # nothing was changed


@pytest.mark.parametrize("registry", [MODELS, DET_MODELS], ids=["root", "mmdet"])
def test_a_class_by_its_names_in_a_config(registry, tmp_path):
    """A config's dump, which the work dir keeps, cannot hold the class itself."""

    class OwnDownsample(StepwiseDownsample):
        """A class of the user's."""

    paths = [f"{kind.__module__}.{kind.__name__}" for kind in (WindowAttention, NoTokens)]
    model = dict(arch=NARROW, local_encoder=paths[0], token_module=paths[1], downsample="Own")
    Config(dict(model=model)).dump(tmp_path / "dump.py")
    registry.register_module("Own", module=OwnDownsample)
    try:
        with registry.switch_scope_and_registry("mmdet"):
            given = DualTokenViT(**Config.fromfile(tmp_path / "dump.py").model)
    finally:
        del registry.module_dict["Own"]
    first = given.stages[0].blocks[0]
    kinds = [type(m) for m in (first.local_encoder, first.token_module)]
    assert kinds == [WindowAttention, NoTokens]
    assert type(first.token_module.downsample) is OwnDownsample


@pytest.mark.parametrize(
    ("cfg", "kind"),
    [
        (dict(type="LN", requires_grad=False), LayerNorm2d),
        (dict(type="BN", requires_grad=False), nn.BatchNorm2d),
        (dict(type="GN", num_groups=8), nn.GroupNorm),
        (dict(type="SyncBN"), nn.SyncBatchNorm),
        (dict(type=LayerNorm2d), LayerNorm2d),
    ],
    ids=str,
)
def test_output_norms(cfg, kind):
    model = build(out_norm_cfg=cfg).eval()
    assert isinstance(model.norm1, kind)
    assert model.norm1.weight.requires_grad == cfg.get("requires_grad", True)
    for out in model(rand(2, 3, 64, 64, dtype=torch.float32)):
        assert out.isfinite().all() and out.std() > 0.1


def test_output_norm_with_a_wrong_key():
    with pytest.raises(ValueError, match="only eps and requires_grad"):
        build(out_norm_cfg=dict(type="LN", momentum=0.1))
