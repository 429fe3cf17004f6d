"""RetinaNet, ResNet-18, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./retinanet_dualtoken_s_1x.py", "../_base_/resnet18.py"]
model = dict(
    backbone=_base_.resnet18, neck=dict(in_channels=_base_.resnet18_channels, start_level=1)
)
