"""RTMDet-tiny's neck and head, ResNet-18, COCO: by the same recipe as our models."""

_base_ = ["../../../configs/mmdet/_base_/rtmdet_tiny.py", "../_base_/resnet18.py"]

backbone = dict(_base_.backbone, out_indices=(1, 2, 3))
model = dict(backbone=backbone, neck=dict(in_channels=[128, 256, 512]))
