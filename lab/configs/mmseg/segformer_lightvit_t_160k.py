"""SegFormer, LightViT-T, ADE20K, 160k iterations, by the same recipe: logits at stride 8."""

_base_ = ["../../../configs/mmseg/_base_/segformer_160k.py", "./_base_/lightvit_t.py"]
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = dict(backbone=_base_.segmentor.backbone, decode_head=dict(in_channels=[64, 128, 256]))
find_unused_parameters = False  # all maps are read
