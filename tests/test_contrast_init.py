"""init_cfg 'StemContrast': what it changes, and that contrast passes the stem with it."""

import pytest
import torch
from mmengine.registry import MODELS
from narrow import ARCH
from torch import nn

from mmdualtoken.models import DualTokenViT

CHANGED = {f"stem.convs.{i}.weight" for i in (3, 6, 9)} | {"stem.convs.12.bias"}


def build(seed=0, **options):
    torch.manual_seed(seed)
    model = MODELS.build(dict(type="DualTokenViT", arch=ARCH, **options))
    model.init_weights()
    return model


def contrast(seed=0, out_norm_cfg=None, **options):
    init_cfg = dict(type="StemContrast", **options)
    return build(seed, init_cfg=init_cfg, out_norm_cfg=out_norm_cfg)


def test_nothing_but_the_stem_starts_otherwise():
    plain, ours = build(out_norm_cfg=None).state_dict(), contrast().state_dict()
    assert {k for k in plain if not torch.equal(plain[k], ours[k])} == CHANGED


def test_every_second_depthwise_channel_starts_as_an_average():
    plain, ours = build(), contrast(noise=0.5)
    for old, new in zip(plain.stem.convs, ours.stem.convs, strict=True):
        if isinstance(old, nn.Conv2d) and old.groups > 1:
            torch.testing.assert_close(new.weight[::2], old.weight[::2] * 0.5 + 1 / 9)
            assert torch.equal(new.weight[1::2], old.weight[1::2])


def test_bias_has_the_deviation_asked_for():
    bias = torch.cat([contrast(s, bias_std=2.0).stem.convs[-1].bias for s in range(8)])
    assert bias.std().item() == pytest.approx(2.0, rel=0.2)
    assert torch.equal(contrast(bias_std=0).stem.convs[-1].bias, torch.zeros(ARCH["embed_dims"][0]))


def blobs(brightness):
    """Images of noise (16, 3, 64, 64) with a square of this brightness in the middle."""
    images = 0.3 * torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    images[:, :, 16:48, 16:48] += brightness
    return images


@pytest.mark.parametrize(("stage", "seed"), [(0, 0), (1, 1), (2, 2)])
def test_a_dark_blob_and_a_darker_one_stay_apart(stage, seed):
    """Their distance in the maps, in parts of all variance, is twice as large or more."""

    def apart(model):
        out = model.train()(torch.cat([blobs(-1.0), blobs(-2.0)]))[stage]
        middle = out[:, :, out.shape[2] // 2, out.shape[3] // 2]
        distance = (middle[:16].mean(0) - middle[16:].mean(0)).square().sum()
        return (distance / out.var((0, 2, 3)).sum()).item()

    norm = dict(type="BN")
    with torch.no_grad():
        plain, ours = apart(build(seed, out_norm_cfg=norm)), apart(contrast(seed, norm))
    assert ours > 2 * plain


@pytest.mark.parametrize("value", [-0.1, "0.3", True, float("nan"), float("inf")])
def test_values_that_make_no_sense_are_refused(value):
    for name in ("noise", "bias_std"):
        with pytest.raises(ValueError, match=f"StemContrast: {name}=.*; allowed is a number"):
            DualTokenViT(init_cfg=dict(type="StemContrast", **{name: value}))
