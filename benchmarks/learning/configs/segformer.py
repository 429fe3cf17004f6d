"""SegFormer's head on CamVid at 192x144 pixels, from scratch; the budgets say how long.

Different from ADE20K's config: the data and what follows from them, gradient clipping.
"""

_base_ = ["../../../configs/mmseg/segformer_dualtoken_t_160k.py", "./_base_/camvid.py"]

model = dict(_base_.camvid_model, auxiliary_head=None)
train_dataloader = dict(dataset=_base_.camvid_train)
val_dataloader = dict(dataset=_base_.camvid_val)
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
