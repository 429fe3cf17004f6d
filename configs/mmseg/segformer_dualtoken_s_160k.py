"""SegFormer, DualToken-ViT-S, ADE20K 512x512, 160k iterations: logits at stride 8."""

_base_ = ["./_base_/segformer_160k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=_base_.segmentor.backbone, decode_head=dict(in_channels=_base_.channels))
find_unused_parameters = False  # all maps are read
