"""DualToken-ViT-S (mix) on 256,562 photos of 96 pixels: the end of mmdualtoken://small's training.

Starts from the checkpoint of dualtoken_s_mix_photos393.py by --load-from, at a third of its rate.
"""

_base_ = ["./_base_/pretrain.py", "./_base_/photos393_96px.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_size=3, drop_path_rate=0.0), neck=_base_.neck)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
