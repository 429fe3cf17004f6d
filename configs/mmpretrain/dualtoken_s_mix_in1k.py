"""DualToken-ViT-S (mix) on ImageNet-1k, 300 epochs (paper: Table 2). Batch 1024 = 8 GPUs x 128."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=_base_.neck)
