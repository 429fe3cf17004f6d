"""DualToken-ViT-T (mlp) on ImageNet-1k."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(arch="tiny", token_mlp="mlp"), neck=dict(in_channels=192))
