"""DualToken-ViT-T (mix) with BatchNorm at the output, for few images from scratch."""

_base_ = "./dualtoken_s_mix_outbn_in1k.py"

model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=192))
