"""RetinaNet, DualToken-ViT-T, COCO, 36 epochs, multi-scale."""

_base_ = ["./_base_/retinanet_3x.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels, start_level=0))
