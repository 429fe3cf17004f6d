"""DualToken-ViT-T (mix) on 256,562 photos of 64 pixels; dualtoken_t_mix_photos393_96px.py follows.

Different from the paper's 7 x 7 tokens: at 64 pixels stage 3 has 2 x 2 positions, and a training
step with 3 x 3 tokens takes half the time. Loading resizes the grid to that of any config.
"""

_base_ = ["./_base_/pretrain.py", "./_base_/photos393.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=dict(_base_.backbone, token_size=3, drop_path_rate=0.0), neck=_base_.neck)
