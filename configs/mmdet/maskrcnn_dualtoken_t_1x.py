"""Mask R-CNN, DualToken-ViT-T, COCO, 12 epochs."""

_base_ = ["./_base_/maskrcnn_1x.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=_base_.backbone, neck=_base_.dualtoken_fpn)
