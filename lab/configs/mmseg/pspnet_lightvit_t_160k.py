"""PSPNet, LightViT-T, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["../../../configs/mmseg/_base_/pspnet_160k.py", "./_base_/lightvit_t.py"]
custom_imports = dict(imports=["mmdualtoken", "lab.lightvit"])

model = _base_.segmentor
