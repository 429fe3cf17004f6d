"""EdgeNeXt-S on ImageNet-1k: as our models, by the same recipe."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(
    backbone=dict(
        _delete_=True, type="EdgeNeXt", arch="small", out_indices=(3,), drop_path_rate=0.1
    ),
    neck=None,
    head=dict(in_channels=304),
)
