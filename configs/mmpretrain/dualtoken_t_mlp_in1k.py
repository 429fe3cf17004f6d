"""DualToken-ViT-T (mlp) on ImageNet-1k."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=dict(_base_.backbone, token_mlp="mlp"), neck=_base_.neck)
