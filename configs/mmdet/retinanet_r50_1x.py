"""RetinaNet, ResNet-50, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./retinanet_dualtoken_s_1x.py", "../_base_/resnet50.py"]
model = dict(
    backbone=_base_.resnet50, neck=dict(in_channels=_base_.resnet50_channels, start_level=1)
)
