"""tools/get_flops.py: parts add up to the report's figures; what is not counted is listed."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from tasks import ROOT, TASKS

from mmdualtoken.export.breakdown import break_down, count_macs, count_parameters, shape_of_config
from mmdualtoken.export.measure import BOX_ROIS, MASK_ROIS, build_model, forward_once

SCOPES = dict(mmdet="detection", mmseg="segmentation", mmpretrain="classification")


def narrow(scope):
    return Config.fromfile(TASKS[SCOPES[scope]][0])


@pytest.mark.parametrize("scope", SCOPES)
def test_parts_add_up_to_the_reports_figures(scope):
    cfg = narrow(scope)
    if scope == "mmseg":
        cfg.model.auxiliary_head = dict(cfg.model.decode_head, in_index=1)
    parts, model = break_down(cfg, (64, 96)), build_model(cfg)
    assert parts.params == count_parameters(model) > 0
    assert parts.macs == count_macs(forward_once, model, scope, (64, 96)) > 0
    assert all(part.macs >= 0 and part.params >= 0 for part in parts.parts)
    names = [part.name for part in parts.parts]
    assert names[:4] == ["backbone.stem", *(f"backbone.stages.{i}" for i in range(3))]
    assert "backbone.global_tokens" in names and "(between the parts)" not in names


def test_heads_that_are_called_past_their_hooks_have_their_share():
    """mmseg calls `decode_head.forward` itself."""
    cfg = narrow("mmseg")
    macs = {part.name: part.macs for part in break_down(cfg, (64, 64)).parts}
    # A map of 2x2 cells: a 3x3 convolution 16 -> 16, one more on what it and its input make, 1x1.
    assert macs["decode_head"] == 2 * 2 * (16 * 16 * 9 + 32 * 16 * 9 + 16 * 5)


def test_roi_heads_count_for_1000_boxes_and_100_masks():
    cfg = narrow("mmdet")
    model = build_model(cfg)
    heads, weight = model.roi_head, next(model.parameters())
    box = count_macs(heads.bbox_head, weight.new_zeros(BOX_ROIS, 16, 7, 7))
    mask = count_macs(heads.mask_head, weight.new_zeros(MASK_ROIS, 16, 14, 14))
    assert (BOX_ROIS, MASK_ROIS) == (1000, 100)
    total = break_down(cfg, (64, 64)).macs
    cfg.model.roi_head.mask_head = None
    assert total - break_down(cfg, (64, 64)).macs == mask
    assert total > box + mask


def test_auxiliary_head_counts_as_parameters_only():
    cfg = narrow("mmseg")
    plain = break_down(cfg, (64, 64))
    cfg.model.auxiliary_head = dict(cfg.model.decode_head, in_index=1)
    with_head = break_down(cfg, (64, 64))
    assert with_head.macs == plain.macs and with_head.params > plain.params
    assert with_head.remarks == ("parameters count, but not run: auxiliary_head",)


def test_every_stage_of_a_cascade_is_counted():
    cfg = narrow("mmdet")
    parts = {part.name: part.macs for part in break_down(cfg, (64, 64)).parts}
    one = break_down(cfg, (64, 64)).macs
    head, stage = cfg.model.roi_head.bbox_head, cfg.model.train_cfg.rcnn
    cfg.model.type, cfg.model.train_cfg.rcnn = "CascadeRCNN", [stage] * 3
    settings = dict(num_stages=3, stage_loss_weights=[1, 1, 1], bbox_head=[head] * 3)
    cfg.model.roi_head.update(type="CascadeRoIHead", **settings)
    heads = parts["roi_head.bbox_head"] + parts["roi_head.mask_head"]
    assert heads > 0 and break_down(cfg, (64, 64)).macs == one + 2 * heads


def test_transformers_run_whole_and_heads_that_do_not_run_are_named():
    cfg = narrow("mmdet")
    backbone, size, queries = cfg.model.backbone, 16, 5
    layer = dict(
        self_attn_cfg=dict(embed_dims=size, num_heads=2, batch_first=True),
        ffn_cfg=dict(embed_dims=size, feedforward_channels=32),
    )
    cross = dict(layer, cross_attn_cfg=layer["self_attn_cfg"])
    cfg.model = dict(
        type="DETR",
        num_queries=queries,
        backbone=backbone,
        neck=dict(type="ChannelMapper", in_channels=[16], kernel_size=1, out_channels=size),
        encoder=dict(num_layers=1, layer_cfg=layer),
        decoder=dict(num_layers=1, layer_cfg=cross, return_intermediate=True),
        positional_encoding=dict(num_feats=size // 2, normalize=True),
        bbox_head=dict(
            type="DETRHead",
            num_classes=3,
            embed_dims=size,
            # Upstream's default has a tensor for the weight, which its own check refuses.
            loss_cls=dict(type="CrossEntropyLoss", class_weight=1.0),
        ),
    )
    cfg.model.backbone.out_indices = (2,)
    result = break_down(cfg, (64, 64))
    macs = {part.name: part.macs for part in result.parts}
    # Classes and background; two layers and four sides of the boxes.
    assert macs["bbox_head"] == queries * (size * 4 + 2 * size * size + size * 4)
    assert macs["encoder"] > 0 and macs["decoder"] > 0
    assert not any("not run:" in remark for remark in result.remarks)


def test_lists_operators_that_are_not_counted():
    result = break_down(narrow("mmpretrain"), (64, 64))
    assert result.uncounted["_native_batch_norm_legit_no_training"] == 4  # the stem's
    assert result.uncounted["max_pool2d_with_indices"] == 2  # two patch mergings
    # Stem 4, per block and Conv Encoder (of 3 and 2) one, FFN; BiDim two; token MLP one; neck one.
    assert result.uncounted["gelu"] == 4 + 2 + 3 + 2 * 3 + 3 + 1
    assert not {"convolution", "mm", "addmm", "bmm"} & set(result.uncounted)


def test_compiled_operators_are_listed_too():
    pytest.importorskip("mmcv._ext", reason="mmcv without compiled operators", exc_type=ImportError)
    cfg = narrow("mmseg")
    cfg.model.decode_head.conv_cfg = dict(type="DCNv2")
    assert break_down(cfg, (64, 64)).uncounted["mmcv ModulatedDeformConv2dPack"] == 2


def test_shape_of_the_config():
    def size(name):
        return shape_of_config(Config.fromfile(ROOT / "configs" / f"{name}.py"))[0]

    assert size("mmpretrain/dualtoken_s_mix_in1k") == (224, 224)  # CenterCrop
    assert size("mmdet/retinanet_dualtoken_s_1x") == (800, 1280)
    assert size("mmseg/pspnet_dualtoken_s_160k") == (512, 512)
    cfg = narrow("mmseg")
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 64)  # width, height; no ratio is kept
    assert shape_of_config(cfg)[0] == (64, 96)


def test_tool_prints_and_writes(project, tool):
    config = TASKS["detection"][0]
    status, printed = tool("get_flops", config, "--shape", "64", "96", "--json", "figures.json")
    assert status == 0
    figures = json.loads(Path("figures.json").read_text())
    assert figures["macs"] == sum(p["macs"] for p in figures["parts"]) > 0
    assert "roi_head.mask_head" in printed and "native_layer_norm x" in printed
    assert "RoIAlign and NMS are not run" in printed


@pytest.mark.parametrize("shape", [["0"], ["64", "64", "3"], ["-1", "64"]])
def test_tool_refuses_shapes(shape, project, tool):
    status, printed = tool("get_flops", TASKS["detection"][0], "--shape", *shape)
    assert status == 2 and "height and width" in printed
