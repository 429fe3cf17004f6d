"""RTMDet, DualToken-ViT-T from the shipped weights, for a few hundred images with boxes."""

_base_ = ["./_base_/rtmdet_tiny_finetune.py", "./_base_/dualtoken_t.py"]

start = dict(init_cfg=_base_.finetune.weights, drop_path_rate=0.0, **_base_.finetune.norms)
model = dict(backbone=dict(_base_.backbone, **start), neck=dict(in_channels=_base_.channels))
