"""DualTokenViTStride4: its map at stride 4, and that all else is DualTokenViT's."""

import pytest
import reference
import torch
from helpers import NARROW, build, log_lines, params, rand, randomise, same
from mmcv.cnn import ConvModule
from mmengine.config import Config
from narrow import ROOT
from reference import batch_norm, gelu, sub
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdualtoken.models import DualTokenViTStride4, blocks
from mmdualtoken.weights.pretrained import start_from_checkpoint

WIDTH = NARROW["embed_dims"][0]


def stride4(**settings):
    """DualTokenViTStride4, narrow unless said otherwise."""
    return DualTokenViTStride4(**{"arch": NARROW, **settings})


def plain(model, **settings):
    """The DualTokenViT with the same weights."""
    other = build(**settings).to(next(model.parameters()).dtype).train(model.training)
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("fine.")}
    other.load_state_dict(own)
    return other


def stride4_map_of(p, x, blocks, training=False):
    """The map at stride 4, written out from the parameters `p` by name."""

    def step(x, conv, norm, **options):
        return batch_norm(sub(p, norm), reference.conv(sub(p, conv), x, **options), training)

    for i, stride in ((0, 2), (3, 1), (6, 1), (9, 2)):
        x = gelu(step(x, f"stem.convs.{i}", f"stem.convs.{i + 1}", stride=stride))
    for i in range(blocks):
        z = x
        for part in ("expand", "depthwise", "project"):
            z = step(z, f"fine.{i}.{part}.conv", f"fine.{i}.{part}.bn")
            z = z if part == "project" else gelu(z)
        x = x + z if i else z  # the first block widens
    return x


@pytest.mark.parametrize(
    ("blocks", "size", "training"),
    [(0, (37, 91), False), (1, (3, 17), False), (2, (37, 91), True), (3, (64, 64), False)],
)
def test_values(blocks, size, training):
    model = randomise(stride4(fine_blocks=blocks).double()).train(training)
    image, p = rand(2, 3, *size), params(model)
    maps = model(image)
    same(maps[0], stride4_map_of(p, image, blocks, training))
    assert maps[0].shape[1:] == (
        WIDTH if blocks else WIDTH // 2,
        -(-size[0] // 4),
        -(-size[1] // 4),
    )
    assert maps[0].is_contiguous()


@pytest.mark.parametrize(
    "settings",
    [dict(), dict(token_mlp="mix", out_norm_cfg=dict(type="BN")), dict(out_indices=(0, 2))],
    ids=str,
)
def test_the_other_maps_are_those_of_the_backbone(settings):
    model = randomise(stride4(**settings).double().eval())
    image = rand(2, 3, 37, 91)
    for ours, theirs in zip(model(image)[1:], plain(model, **settings)(image), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_images_are_computed_in_chunks(monkeypatch):
    """As the stem's are: results do not change."""
    model, images = randomise(stride4().double().eval()), rand(5, 3, 64, 64)
    expected = model(images)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", 2**11)
    same(model(images), expected)


def test_frozen_and_eval_parts_do_not_include_the_added_blocks():
    model = stride4(frozen_stages=1, norm_eval=True).train()
    norms = [m for m in model.fine.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 6 and all(m.training for m in norms)
    assert not any(m.training for m in model.stem.modules())
    assert all(p.requires_grad for p in model.fine.parameters())
    assert not any(p.requires_grad for p in model.stem.parameters())


def test_added_blocks_are_of_the_last_layer():
    model = stride4()
    for name in ("fine.0.expand.conv.weight", "fine.1.project.bn.bias"):
        assert name in dict(model.named_parameters())
        assert model.get_layer_depth(f"backbone.{name}") == (6, 7)
    assert model.get_layer_depth("backbone.stem.convs.0.weight") == (0, 7)


def test_deployed_gives_the_same_without_a_norm():
    model = randomise(stride4(token_mlp="mix").double().eval())
    image = rand(2, 3, 37, 91)
    with torch.no_grad():
        expected = model(image)
        model.switch_to_deploy()
        same(model(image), expected)
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    convs = [m for m in model.fine.modules() if isinstance(m, ConvModule)]
    assert len(convs) == 6 and all(isinstance(m.norm, nn.Identity) for m in convs)


def started(file, kind=stride4, **settings):
    """A backbone that starts from the file, and what the log says of it."""
    model = kind(init_cfg=dict(type="Pretrained", checkpoint=str(file)), **settings)
    with log_lines() as lines:
        model.init_weights()
    return model, [line for line in lines if "backbone tensors" in line][0]


def test_starts_from_a_classifier(tmp_path):
    """By init_cfg, and by --pretrained."""
    state = params(randomise(build(out_indices=(2,))))
    file = str(tmp_path / "classifier.pth")
    torch.save(state, file)
    model, line = started(file)
    assert line.endswith("; newly initialized, not in the file: norm0, norm1, fine")
    own = params(model)
    assert f"loaded {len(state)} of {len(own)} " in line
    assert all(torch.equal(own[name], value) for name, value in state.items())
    cfg = Config(dict(model=dict(backbone=dict(type="DualTokenViTStride4", arch=NARROW))))
    start_from_checkpoint(cfg, file)
    assert cfg.model.backbone.init_cfg.checkpoint == file and cfg.model.backbone.norm_eval


def test_starts_from_its_own_kind_and_gives_to_the_other(tmp_path):
    state = params(randomise(stride4()))
    torch.save(state, tmp_path / "fine.pth")
    model, line = started(tmp_path / "fine.pth")
    assert f"loaded {len(state)} of {len(state)} " in line and "newly initialized" not in line
    assert all(torch.equal(value, state[name]) for name, value in params(model).items())
    model, line = started(tmp_path / "fine.pth", stride4, fine_blocks=1)
    assert line.endswith("; newly initialized, of another type in the file: fine")
    model, line = started(tmp_path / "fine.pth", build)
    assert line.endswith("; not used: fine")
    assert all(torch.equal(value, state[name]) for name, value in params(model).items())


@pytest.mark.parametrize("size, widths", [("s", [64, 128, 256]), ("t", [48, 96, 192])])
def test_configs_differ_in_the_map_and_the_pyramid_only(size, widths):
    folder = ROOT / "configs" / "mmdet"
    plain = Config.fromfile(folder / f"maskrcnn_dualtoken_{size}_1x.py")
    ours = Config.fromfile(folder / f"maskrcnn_dualtoken_{size}_stride4_1x.py")
    assert ours.model.backbone == {**plain.model.backbone, "type": "DualTokenViTStride4"}
    neck = dict(type="FPN", in_channels=[widths[0], *widths], out_channels=256, num_outs=5)
    assert ours.model.neck == neck
    ours.model.backbone, ours.model.neck = plain.model.backbone, plain.model.neck
    assert ours.to_dict() == plain.to_dict()


@pytest.mark.parametrize("head", ["deeplabv3", "pspnet"])
def test_segmentors_read_the_map_with_those_of_concat(head):
    folder = ROOT / "configs" / "mmseg"
    concat = Config.fromfile(folder / f"{head}_dualtoken_s_concat_160k.py")
    ours = Config.fromfile(folder / f"{head}_dualtoken_s_concat_stride4_160k.py")
    assert ours.model.backbone == {**concat.model.backbone, "type": "DualTokenViTStride4"}
    # One map more, the first: all others move by one. Stride 8 comes first, whose size all get.
    decode = dict(in_index=[1, 0, 2, 3], in_channels=[64, 64, 128, 256])
    assert {k: list(ours.model.decode_head[k]) for k in decode} == decode
    assert concat.model.auxiliary_head.in_index + 1 == ours.model.auxiliary_head.in_index
    ours.model.backbone = concat.model.backbone
    ours.model.decode_head.update(
        {k: concat.model.decode_head[k] for k in ("in_index", "in_channels")}
    )
    ours.model.auxiliary_head.in_index = concat.model.auxiliary_head.in_index
    others = [{k: v for k, v in c.to_dict().items() if k != "segmentor"} for c in (ours, concat)]
    assert others[0] == others[1]  # but for the variable that the leaves take their model from
