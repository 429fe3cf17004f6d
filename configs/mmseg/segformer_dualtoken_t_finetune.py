"""SegFormer, DualToken-ViT-T from the shipped weights, for a few hundred images with label maps."""

_base_ = ["./_base_/finetune.py", "./_base_/dualtoken_t.py"]

start = dict(init_cfg=_base_.finetune.weights, drop_path_rate=0.0, **_base_.finetune.norms)
model = dict(
    backbone=dict(_base_.segmentor.backbone, **start), decode_head=dict(in_channels=_base_.channels)
)
find_unused_parameters = False  # all maps are read
