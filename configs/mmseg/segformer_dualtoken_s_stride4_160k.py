"""SegFormer, DualToken-ViT-S with a map at stride 4, ADE20K 512x512: logits at stride 4."""

_base_ = ["./_base_/segformer_160k.py", "./_base_/dualtoken_s.py"]

model = dict(
    backbone=dict(_base_.segmentor.backbone, type="DualTokenViTStride4"),
    decode_head=dict(in_index=(0, 1, 2, 3), in_channels=(64, *_base_.channels), channels=128),
)
find_unused_parameters = False  # all maps are read
