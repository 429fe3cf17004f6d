"""MobileViT-S on ImageNet-1k: as our models, by the same recipe."""

_base_ = "../../../configs/mmpretrain/_base_/in1k.py"

model = dict(
    backbone=dict(type="MobileViT", arch="small"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=640),
)
