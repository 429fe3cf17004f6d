"""DualToken-ViT-T for segmentors: as small, with narrower maps."""

_base_ = "./dualtoken_s.py"

channels = (48, 96, 192)
segmentor = dict(
    backbone=dict(arch="tiny"),
    decode_head=dict(in_channels=192),
    auxiliary_head=dict(in_channels=96),
)
