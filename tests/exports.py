"""Models to export, small ones of every kind, and the sizes that a file is tried at."""

from copy import deepcopy
from pathlib import Path

import torch
from helpers import NARROW, randomise
from mmengine.config import Config
from narrow import narrow
from tasks import RTMDET, TASKS
from torch import nn

from mmdualtoken.export import raw_outputs as export
from mmdualtoken.export.formats import Onnx
from mmdualtoken.export.measure import build_model
from mmdualtoken.export.results import Results

ROOT = Path(__file__).resolve().parent.parent
SIZES = [*export.CHECKED, (1, 64, 64), (2, 8, 9)]
CLASSIFIER, FCN = TASKS["classification"][0], TASKS["segmentation"][0]


def holder(backbone):
    """A backbone as the tools hold it."""
    module = nn.Module()
    module.backbone = backbone
    return export.RawOutputs(module, "mmpretrain", backbone_only=True).eval()


def retinanet():
    cfg = Config.fromfile(ROOT / "configs/mmdet/retinanet_dualtoken_s_1x.py")
    cfg.model.backbone.arch = NARROW
    cfg.model.neck.update(in_channels=list(NARROW["embed_dims"]), out_channels=16)
    cfg.model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3)
    return cfg


ANCHORS = dict(
    type="AnchorGenerator",
    ratios=[1.0],
    octave_base_scale=8,
    scales_per_octave=1,
    strides=[8, 16, 32, 64, 128],
)
POINTS = dict(type="MlvlPointGenerator", offset=0, strides=ANCHORS["strides"])
GROUPS = dict(type="GN", num_groups=4)
DELTAS = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
QUALITY = dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0)


def dense(**head):
    """A RetinaNet with another head, of three classes."""
    cfg = retinanet()
    widths = dict(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    cfg.model.bbox_head = dict(**widths, **head)
    return cfg


def rtmdet():
    cfg = dense(
        type="RTMDetSepBNHead",
        anchor_generator=POINTS,
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        with_objectness=False,
        norm_cfg=dict(type="BN"),
        loss_cls=QUALITY,
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
    )
    cfg.model.type = "RTMDet"
    cfg.model.test_cfg = dict(
        nms_pre=30000,
        min_bbox_size=0,
        score_thr=0.001,
        nms=dict(type="nms", iou_threshold=0.65),
        max_per_img=300,
    )
    return cfg


def two_stage(masks=True, cascade=False):
    """Mask, Faster or Cascade R-CNN."""
    cfg = Config.fromfile(TASKS["detection"][0])
    head = cfg.model.roi_head
    if not masks:
        cfg.model.type = "FasterRCNN"
        del head["mask_head"], head["mask_roi_extractor"]
    if cascade:
        cfg.model.type, head.type = "CascadeRCNN", "CascadeRoIHead"
        stages = [deepcopy(head.bbox_head) for _ in range(3)]
        for i, stage in enumerate(stages, 1):
            stds = [std / i for std in DELTAS["target_stds"]]
            stage.update(reg_class_agnostic=True, bbox_coder=dict(DELTAS, target_stds=stds))
        head.update(bbox_head=stages, num_stages=3, stage_loss_weights=[1.0, 0.5, 0.25])
        cfg.model.train_cfg.rcnn = [cfg.model.train_cfg.rcnn] * 3
    return cfg


DETECTORS = dict(
    retinanet=retinanet,
    atss=lambda: dense(
        type="ATSSHead", norm_cfg=GROUPS, anchor_generator=ANCHORS, bbox_coder=DELTAS
    ),
    fcos=lambda: dense(type="FCOSHead", norm_cfg=GROUPS, strides=ANCHORS["strides"]),
    gfl=lambda: dense(
        type="GFLHead", norm_cfg=GROUPS, anchor_generator=ANCHORS, reg_max=16, loss_cls=QUALITY
    ),
    rtmdet=rtmdet,
    faster=lambda: two_stage(masks=False),
    mask=two_stage,
    cascade=lambda: two_stage(cascade=True),
)


def segmentor(**head):
    cfg = Config.fromfile(FCN)
    cfg.model.decode_head.pop("num_convs")
    cfg.model.decode_head.update(head)
    return cfg


def light(head):
    """A segmentor of one of the light heads."""
    cfg = narrow(ROOT / f"configs/mmseg/{head}_160k.py")
    cfg.model.decode_head.num_classes = 5
    return cfg


def levels(*names, count=5):
    return [f"{name}_{i}" for name in names for i in range(count)]


MODELS = dict(
    classifier=(lambda: Config.fromfile(CLASSIFIER), ["logits"]),
    fcn=(lambda: Config.fromfile(FCN), ["logits"]),
    deeplab=(lambda: segmentor(type="ASPPHead", dilations=(1, 2, 4)), ["logits"]),
    psp=(lambda: segmentor(type="PSPHead", pool_scales=(1, 2, 3, 6)), ["logits"]),
    maskrcnn=(
        lambda: Config.fromfile(TASKS["detection"][0]),
        levels("map", "rpn_cls", "rpn_bbox"),
    ),
    retinanet=(retinanet, levels("cls_score", "bbox_pred")),
    rtmdet=(
        lambda: Config.fromfile(RTMDET),
        [*levels("cls_score", "bbox_pred", "extra0", count=3), "extra1"],
    ),
    segformer=(lambda: light("segformer_dualtoken_t_stride4"), ["logits"]),
    deeplabv3plus=(lambda: light("deeplabv3plus_dualtoken_t"), ["logits"]),
)


def save(cfg, classes=()):
    """Write model.py and trained.pth, with weights that hide nothing; return the model."""
    cfg.dump("model.py")
    model = randomise(build_model(cfg))
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), "trained.pth")
    return model


def write_onnx(cfg, classes):
    """Write model.py and model.onnx, images to results, without the tool's comparisons."""
    cfg.dump("model.py")
    results = Results(randomise(build_model(cfg)), cfg).eval()
    metadata = export.describe(cfg, results, classes)
    Onnx.save(export.record(results), results.names(), metadata, Path("model.onnx"))
