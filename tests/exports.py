"""Models to export, small ones of every kind, and the sizes that a file is tried at."""

from pathlib import Path

import torch
from helpers import NARROW, randomise
from mmengine.config import Config
from narrow import narrow
from tasks import RTMDET, TASKS
from torch import nn

from mmdualtoken.export import outputs as export
from mmdualtoken.export.measure import build_model

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
