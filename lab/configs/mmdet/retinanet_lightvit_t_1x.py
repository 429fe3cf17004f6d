"""RetinaNet, LightViT-T, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/retinanet_1x.py", "../_base_/lightvit_t.py"]
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels, start_level=0))
