"""Mask R-CNN, DualToken-ViT-T, COCO, 12 epochs."""

_base_ = "./maskrcnn_dualtoken_s_1x.py"

model = dict(backbone=dict(arch="tiny"), neck=dict(in_channels=[48, 96, 192]))
