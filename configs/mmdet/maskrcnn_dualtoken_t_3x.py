"""Mask R-CNN, DualToken-ViT-T, COCO, 36 epochs, multi-scale."""

_base_ = ["./_base_/maskrcnn_3x.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=_base_.backbone, neck=_base_.dualtoken_fpn)
