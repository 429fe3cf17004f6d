"""DeepLabv3, DualToken-ViT-T, ADE20K 512x512, 160k iterations."""

_base_ = ["./_base_/deeplabv3_160k.py", "./_base_/dualtoken_t.py"]

model = _base_.segmentor
