"""Mask R-CNN, MobileNetV2, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./maskrcnn_dualtoken_s_1x.py", "../_base_/mobilenet_v2.py"]
model = dict(
    backbone=_base_.mobilenet_v2,
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=_base_.mobilenet_v2_channels,
        out_channels=256,
        num_outs=5,
    ),
)
