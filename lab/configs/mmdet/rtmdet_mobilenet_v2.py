"""RTMDet-tiny's neck and head, MobileNetV2, COCO: by the same recipe as our models."""

_base_ = ["../../../configs/mmdet/_base_/rtmdet_tiny.py", "../_base_/mobilenet_v2.py"]

backbone = dict(_base_.backbone, out_indices=(2, 4, 6))
model = dict(backbone=backbone, neck=dict(in_channels=[32, 96, 320]))
