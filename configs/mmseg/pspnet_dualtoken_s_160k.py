"""PSPNet, DualToken-ViT-S, ADE20K 512x512, 160k iterations (paper: Table 5)."""

_base_ = ["./_base_/pspnet_160k.py", "./_base_/dualtoken_s.py"]

model = _base_.segmentor
