"""RTMDet-tiny on 2,154 photos of COCO, 80 classes, at 320 pixels; the budgets say how long.

Different from COCO's config: the data, small images, and what `_base_/rtmdet.py` says.
"""

_base_ = [
    "../../../configs/mmdet/rtmdet_dualtoken_t.py",
    "./_base_/rtmdet.py",
    "./_base_/coco2k.py",
]

model = _base_.rtmdet_model
train_dataloader = dict(dataset=dict(**_base_.coco2k, pipeline=_base_.rtmdet_train))
val_dataloader = dict(dataset=dict(**_base_.coco2k, pipeline=_base_.rtmdet_val))
test_dataloader = val_dataloader
optim_wrapper = _base_.rtmdet_optim_wrapper
custom_hooks = []
