"""Mask R-CNN, MobileNetV2, COCO, 36 epochs, multi-scale: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/maskrcnn_3x.py", "../_base_/mobilenet_v2.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
