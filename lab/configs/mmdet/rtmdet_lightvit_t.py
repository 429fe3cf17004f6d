"""RTMDet-tiny's neck and head, LightViT-T, COCO: by the same recipe as our models."""

_base_ = ["../../../configs/mmdet/_base_/rtmdet_tiny.py", "../_base_/lightvit_t.py"]
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
