"""MobileViT-S on ImageNet-1k: as our models, by the same recipe."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(
    backbone=dict(_delete_=True, type="MobileViT", arch="small"),
    neck=dict(_delete_=True, type="GlobalAveragePooling"),
    head=dict(in_channels=640),
)
