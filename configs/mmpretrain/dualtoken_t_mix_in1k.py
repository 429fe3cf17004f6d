"""DualToken-ViT-T (mix) on ImageNet-1k (paper: Table 2)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=_base_.backbone, neck=_base_.neck)
