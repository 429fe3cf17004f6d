"""EdgeNeXt-S on ImageNet-1k: as our models, by the same recipe."""

_base_ = "../../../configs/mmpretrain/_base_/in1k.py"

model = dict(
    backbone=dict(type="EdgeNeXt", arch="small", out_indices=(3,), drop_path_rate=0.1),
    neck=None,  # the backbone averages its last map
    head=dict(in_channels=304),
)
