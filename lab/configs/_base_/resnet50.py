"""ResNet-50 with four maps: as ResNet-18, deeper and wider."""

_base_ = "./resnet18.py"

backbone = dict(depth=50)
channels = [256, 512, 1024, 2048]
