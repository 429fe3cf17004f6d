"""DualToken-ViT-S (mlp) on ImageNet-1k (paper: Table 2)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_mlp="mlp"), neck=_base_.neck)
