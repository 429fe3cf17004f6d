"""Mask R-CNN, DualToken-ViT-T from the shipped weights, for a few hundred images with masks."""

_base_ = ["./_base_/maskrcnn_finetune.py", "./_base_/dualtoken_t.py"]

start = dict(init_cfg=_base_.finetune.weights, drop_path_rate=0.0, **_base_.finetune.norms)
neck = dict(_base_.dualtoken_fpn, out_channels=_base_.width)
model = dict(backbone=dict(_base_.backbone, **start), neck=neck)
