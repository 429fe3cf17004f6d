"""RTMDet-Ins, DualToken-ViT-T, COCO 640x640, 300 epochs. Batch 256 = 8 GPUs x 32 images."""

_base_ = ["./_base_/rtmdet-ins_tiny.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
