"""RTMDet-tiny on BCCD's blood cells at 256x192 pixels, from scratch; the budgets say how long.

Different from COCO's config: three classes, small images, and what `_base_/rtmdet.py` says.
"""

_base_ = ["../../../configs/mmdet/rtmdet_dualtoken_t.py", "./_base_/rtmdet.py"]

size = dict(scale=(256, 192))
train_pipeline, test_pipeline = (
    [dict(step, **size) if step.type == "Resize" else step for step in steps]
    for steps in (_base_.rtmdet_train, _base_.rtmdet_val)
)
data = dict(metainfo=dict(classes=("RBC", "WBC", "Platelets")))
model = dict(_base_.rtmdet_model, bbox_head=dict(num_classes=3))
train_dataloader = dict(dataset=dict(**data, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**data, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = _base_.rtmdet_optim_wrapper
custom_hooks = []
