"""The necks against the plain reading of the formulas in `reference`."""

import pytest
import reference
import torch
from helpers import NARROW, exact, rand, same
from torch import nn

from mmdualtoken.models import DualTokenClsNeck, DualTokenViT, ResizeNeck

NO_MMDET = "DualTokenFPN builds on mmdet's FPN, which a classification-only installation lacks"
CHANNELS = [16, 24, 32]
SIZES = {
    "64x64": [(8, 8), (4, 4), (2, 2)],
    "37x53": [(5, 7), (3, 4), (2, 2)],  # odd sizes: the top-down maps are larger by less than 2
    "8x8": [(1, 1), (1, 1), (1, 1)],
}


def feats(size, channels=CHANNELS, batch=2):
    return tuple(rand(batch, c, *hw, seed=c) for c, hw in zip(channels, SIZES[size], strict=True))


@pytest.mark.parametrize("size", SIZES)
def test_cls_neck(size):
    neck, p = exact(DualTokenClsNeck(32, 40))
    maps = feats(size)
    outs = neck(maps)
    assert isinstance(outs, tuple)
    assert len(outs) == 1
    assert outs[0].shape == (2, 40)
    same(outs[0], reference.cls_neck(p, maps))


def test_cls_neck_starts():
    torch.manual_seed(0)
    neck = DualTokenClsNeck(64, 512)
    assert neck.fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (neck.fc.bias == 0).all()


@pytest.fixture
def fpn_class():
    pytest.importorskip("mmdet", reason=NO_MMDET)
    from mmdualtoken.models.necks import DualTokenFPN

    return DualTokenFPN


@pytest.mark.parametrize(
    ("size", "count", "num_outs"),
    [("64x64", 3, 5), ("37x53", 3, 6), ("8x8", 3, 4), ("37x53", 2, 3)],
)
def test_fpn(fpn_class, size, count, num_outs):
    neck, p = exact(fpn_class(CHANNELS[:count], 20, num_outs=num_outs))
    maps = feats(size)[:count]
    kept = [m.clone() for m in maps]
    outs = neck(maps)
    expected = reference.fpn(p, maps, num_outs)
    assert isinstance(outs, tuple)
    assert len(outs) == len(expected) == num_outs
    same(outs, expected)
    for m, before in zip(maps, kept, strict=True):
        assert torch.equal(m, before)


def test_fpn_with_norm_and_activation(fpn_class):
    neck = fpn_class(CHANNELS, 20, norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU"))
    convs = [*neck.lateral_convs, *neck.fpn_convs, neck.finest[1]]
    assert len(convs) == 7
    for kind in (nn.BatchNorm2d, nn.ReLU):
        assert all(any(isinstance(m, kind) for m in conv.modules()) for conv in convs)
    # The output convolutions end with it.
    assert all(o.min() == 0 for o in neck([m.float() for m in feats("64x64")]))


def test_fpn_starts_with_xavier(fpn_class):
    torch.manual_seed(0)
    neck = fpn_class(CHANNELS, 64)
    neck.init_weights()
    for name, module in neck.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            area = module.kernel_size[0] * module.kernel_size[1]
            bound = (6 / (area * (module.in_channels + module.out_channels))) ** 0.5
            assert module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name
            assert (module.bias == 0).all(), name


def test_fpn_refuses(fpn_class):
    """Too few outputs, and maps of other channels than were announced."""
    with pytest.raises(ValueError, match=r"DualTokenFPN: num_outs=3.*>= 4"):
        fpn_class(CHANNELS, 20, num_outs=3)
    neck = fpn_class(CHANNELS, 20)
    for channels in ([24, 16, 32], [16, 24], [16, 24, 32, 48]):
        with pytest.raises(ValueError) as caught:
            neck([torch.zeros(1, c, 4, 4) for c in channels])
        for part in ("DualTokenFPN", str(channels), "in_channels", str(CHANNELS)):
            assert part in str(caught.value)


@pytest.mark.parametrize("norm", ["LN", "BN"])
def test_roi_align_reads_the_maps_right(fpn_class, norm):
    """mmcv's RoIAlign takes memory for (B, C, H, W) without looking: maps must be laid out so."""
    from mmcv.ops import RoIAlign

    torch.manual_seed(0)
    model = DualTokenViT(NARROW, out_norm_cfg=dict(type=norm)).train()
    neck = fpn_class(in_channels=list(NARROW["embed_dims"]), out_channels=8, num_outs=5)
    boxes = torch.tensor([[0.0, 8.0, 4.0, 40.0, 60.0], [1.0, 0.0, 0.0, 30.0, 20.0]])
    image = torch.rand(2, 3, 64, 96)
    for layout in (torch.contiguous_format, torch.channels_last):
        maps = model(image.to(memory_format=layout))
        assert all(m.is_contiguous() for m in maps)
        for out, stride in zip(neck(maps), (4, 8, 16, 32, 64), strict=True):
            align = RoIAlign(7, spatial_scale=1 / stride, sampling_ratio=0)
            values = torch.tensor(out.tolist())  # the values alone, in a plain layout
            torch.testing.assert_close(align(out, boxes), align(values, boxes))


def test_resize_neck():
    maps = [rand(2, 4, 8, 12), rand(2, 6, 4, 6, seed=1), rand(2, 8, 2, 3, seed=2)]
    outs = ResizeNeck()(maps)
    assert outs[0] is maps[0] and outs[1] is maps[1]
    assert outs[2].shape == (2, 8, 8, 12)
    # Four times in each direction: the output pixel 4i + j lies (j - 1.5) / 4 from i.
    inner = maps[2]
    same(outs[2][..., 1, 1], inner[..., 0, 0])
    weights = torch.tensor([7 / 8, 1 / 8]).double()
    mixed = torch.einsum("bchw,h,w->bc", inner[..., :2], weights, weights)
    same(outs[2][..., 2, 2], mixed)
    outs = ResizeNeck(source=2, target=1, mode="nearest")(maps)
    same(outs[2], inner.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(IndexError):
        ResizeNeck(source=3)(maps)
