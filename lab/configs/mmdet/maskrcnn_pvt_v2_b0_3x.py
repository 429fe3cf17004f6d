"""Mask R-CNN, PVTv2-b0, COCO, 36 epochs, multi-scale: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/maskrcnn_3x.py", "../_base_/pvt_v2_b0.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
