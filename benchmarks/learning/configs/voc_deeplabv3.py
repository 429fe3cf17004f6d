"""DeepLabv3 on Pascal VOC's people, animals and seats at 192 pixels; the budgets say how long.

Different from ADE20K's config: the data and what follows from them, gradient clipping.
"""

_base_ = ["../../../configs/mmseg/deeplabv3_dualtoken_s_160k.py", "./_base_/voc_animals.py"]

model = _base_.voc_model
train_dataloader = dict(dataset=_base_.voc_train)
val_dataloader = dict(dataset=_base_.voc_val)
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
