"""DeepLabv3 on the last map as it is, at stride 32: an alternative that costs far less."""

_base_ = "./deeplabv3_dualtoken_s_160k.py"

model = dict(neck=None)
