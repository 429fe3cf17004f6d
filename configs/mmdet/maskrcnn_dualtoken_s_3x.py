"""Mask R-CNN, DualToken-ViT-S, COCO, 36 epochs, multi-scale (paper: Table 3)."""

_base_ = ["./_base_/maskrcnn_3x.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=_base_.dualtoken_fpn)
