"""PSPNet, EdgeNeXt-S, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["../../../configs/mmseg/_base_/pspnet_160k.py", "./_base_/edgenext_s.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = _base_.segmentor
