"""RTMDet, DualToken-ViT-S, COCO 640x640, 300 epochs. Batch 256 = 8 GPUs x 32 images."""

_base_ = ["./_base_/rtmdet_s.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
