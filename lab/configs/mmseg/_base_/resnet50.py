"""ResNet-50 for segmentors, dilated: as ResNet-18, deeper and wider."""

_base_ = "./resnet18.py"

segmentor = dict(
    backbone=dict(depth=50),
    decode_head=dict(in_channels=2048),
    auxiliary_head=dict(in_channels=1024),
)
