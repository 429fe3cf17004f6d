"""RetinaNet, DualToken-ViT-S, COCO, 12 epochs (paper: Table 4). Batch 16 = 8 GPUs x 2 images."""

_base_ = ["./_base_/retinanet_1x.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels, start_level=0))
