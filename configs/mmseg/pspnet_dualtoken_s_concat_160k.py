"""PSPNet on all three maps, resized to stride 8 and concatenated: an alternative to the last."""

_base_ = ["./_base_/pspnet_160k.py", "./_base_/dualtoken_s_concat.py"]

model = _base_.segmentor
