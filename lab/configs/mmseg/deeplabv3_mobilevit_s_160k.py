"""DeepLabv3, MobileViT-S, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["../../../configs/mmseg/_base_/deeplabv3_160k.py", "./_base_/mobilevit_s.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = _base_.segmentor
