"""RetinaNet, DualToken-ViT-S, COCO, 36 epochs, multi-scale (paper: Table 4)."""

_base_ = ["./_base_/retinanet_3x.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels, start_level=0))
