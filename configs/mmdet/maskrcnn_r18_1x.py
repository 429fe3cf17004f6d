"""Mask R-CNN, ResNet-18, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./maskrcnn_dualtoken_s_1x.py", "../_base_/resnet18.py"]
model = dict(
    backbone=_base_.resnet18,
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=_base_.resnet18_channels,
        out_channels=256,
        num_outs=5,
    ),
)
