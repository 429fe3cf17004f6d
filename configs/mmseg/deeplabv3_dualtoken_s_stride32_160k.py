"""DeepLabv3 on the last map as it is, at stride 32: an alternative that costs far less."""

_base_ = ["./_base_/deeplabv3_160k.py", "./_base_/dualtoken_s.py"]

model = dict(_base_.segmentor, neck=None)
