"""PSPNet, PVTv2-b0, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["../../../configs/mmseg/_base_/pspnet_160k.py", "./_base_/pvt_v2_b0.py"]
custom_imports = dict(imports=["mmdualtoken", "mmdet.models"])

model = _base_.segmentor
