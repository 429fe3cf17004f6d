"""RetinaNet, ResNet-50, COCO, 36 epochs, multi-scale: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/retinanet_3x.py", "../_base_/resnet50.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
