"""MobileNetV2 on ImageNet-1k: as our models, by the same recipe."""

_base_ = "../../../configs/mmpretrain/_base_/in1k.py"

model = dict(
    backbone=dict(type="MobileNetV2"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=1280),
)
