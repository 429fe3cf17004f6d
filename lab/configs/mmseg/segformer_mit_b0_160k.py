"""SegFormer, MiT-B0, ADE20K, 160k iterations, by the same recipe: logits at stride 4."""

_base_ = ["../../../configs/mmseg/_base_/segformer_160k.py", "../_base_/mit_b0.py"]

head = dict(in_channels=_base_.channels, in_index=(0, 1, 2, 3))
model = dict(backbone=_base_.backbone, decode_head=head)
