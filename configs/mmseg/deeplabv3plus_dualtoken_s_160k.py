"""DeepLabv3+ of 128 channels, DualToken-ViT-S, ADE20K 512x512, 160k iterations."""

_base_ = ["./_base_/deeplabv3plus_160k.py", "./_base_/dualtoken_s.py"]

model = dict(
    _base_.segmentor,
    decode_head=dict(in_channels=_base_.channels[2], c1_in_channels=_base_.channels[0]),
)
find_unused_parameters = False  # all maps are read
