"""ResNet-18 on ImageNet-1k: as our models, by the same recipe."""

_base_ = "../../../configs/mmpretrain/_base_/in1k.py"

model = dict(
    backbone=dict(type="ResNet", depth=18),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=512),
)
