"""SegFormer's head on Pascal VOC's animals at 192 pixels, from scratch; the budgets say how long.

Different from ADE20K's config: the data and what follows from them, gradient clipping.
"""

_base_ = ["../../../configs/mmseg/segformer_dualtoken_t_160k.py", "./_base_/voc_animals.py"]

model = dict(_base_.voc_model, auxiliary_head=None)
train_dataloader = dict(dataset=_base_.voc_train)
val_dataloader = dict(dataset=_base_.voc_val)
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
