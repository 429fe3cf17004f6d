"""LightViT-T on ImageNet-1k: as our models, by the same recipe."""

_base_ = "../../../configs/mmpretrain/_base_/in1k.py"
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = dict(
    backbone=dict(type="LightViT", arch="tiny", out_indices=(2,), drop_path_rate=0.1),
    neck=dict(type="DualTokenClsNeck", in_channels=256, out_channels=1280),
)
