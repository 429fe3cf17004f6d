"""DualToken-ViT-S (mix) on 256,562 photos of 64 pixels; dualtoken_s_mix_photos393_96px.py follows.

Different from the paper's 7 x 7 tokens: as dualtoken_t_mix_photos393.py.
"""

_base_ = ["./_base_/pretrain.py", "./_base_/photos393.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_size=3, drop_path_rate=0.0), neck=_base_.neck)
