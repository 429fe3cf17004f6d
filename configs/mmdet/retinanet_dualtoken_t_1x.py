"""RetinaNet, DualToken-ViT-T, COCO, 12 epochs."""

_base_ = "./retinanet_dualtoken_s_1x.py"

model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=[48, 96, 192]))
