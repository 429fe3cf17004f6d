"""RetinaNet, MobileNetV2, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./retinanet_dualtoken_s_1x.py", "../_base_/mobilenet_v2.py"]
model = dict(
    backbone=_base_.mobilenet_v2, neck=dict(in_channels=_base_.mobilenet_v2_channels, start_level=1)
)
