"""Mask R-CNN, LightViT-T, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/maskrcnn_1x.py", "../_base_/lightvit_t.py"]
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = dict(backbone=_base_.backbone, neck=_base_.fpn)
