"""DeepLabv3, DualToken-ViT-T, ADE20K 512x512, 160k iterations."""

_base_ = "./deeplabv3_dualtoken_s_160k.py"

model = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=192),
    auxiliary_head=dict(in_channels=96),
)
