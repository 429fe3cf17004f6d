"""DualToken-ViT-S (mlp) on ImageNet-1k (paper: Table 2)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(token_mlp="mlp"))
