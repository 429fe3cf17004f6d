"""DualToken-ViT-T (mix), first part of the pretraining: 64 pixels, 3 x 3 tokens.

At 64 pixels stage 3 has 2 x 2 positions: 49 tokens would outnumber the image's.
"""

_base_ = ["./_base_/pretrain.py", "./_base_/dualtoken_t.py"]

model = dict(
    backbone=dict(
        _base_.backbone, token_size=(3, 3), out_norm_cfg=dict(type="BN"), drop_path_rate=0.0
    ),
    neck=_base_.neck,
)
