"""Mask R-CNN, DualToken-ViT-S, COCO, 12 epochs (paper: Table 3). Batch 16 = 8 GPUs x 2 images."""

_base_ = ["./_base_/maskrcnn_1x.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=_base_.dualtoken_fpn)
