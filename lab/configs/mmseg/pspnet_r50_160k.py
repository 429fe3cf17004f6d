"""PSPNet, ResNet-50, ADE20K 512x512, dilated to stride 8, by the same recipe as our models."""

_base_ = ["../../../configs/mmseg/_base_/pspnet_160k.py", "./_base_/resnet50.py"]

model = _base_.segmentor
