"""SegFormer, MobileNetV2, ADE20K, 160k iterations, by the same recipe: logits at stride 4."""

_base_ = ["../../../configs/mmseg/_base_/segformer_160k.py", "../_base_/mobilenet_v2.py"]

head = dict(in_channels=_base_.channels, in_index=(0, 1, 2, 3))
backbone = dict(_base_.backbone, norm_cfg=dict(type="SyncBN", requires_grad=True))
model = dict(backbone=backbone, decode_head=head)
find_unused_parameters = False  # MMSegmentation's has no last convolution
