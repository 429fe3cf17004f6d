"""A classifier of a few hundred images of 128 pixels, from the shipped weights.

Different from their own recipe (pretrain.py): 600 iterations of 32 images at a third of its rate.
A config names the data, and the number of classes of the head and of data_preprocessor.
"""

_base_ = ["./pretrain.py", "./photos393.py", "../../_base_/finetune.py"]

model = dict(
    head=dict(
        type="LinearClsHead",
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        cal_acc=False,
    )
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=128, crop_ratio_range=(0.25, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=144, edge="short"),
    dict(type="CenterCrop", crop_size=128),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=32,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
optim_wrapper = _base_.finetune.optim_wrapper
train_cfg = _base_.finetune.train_cfg
param_scheduler = _base_.finetune.param_scheduler
default_hooks = _base_.finetune.default_hooks
auto_scale_lr = dict(base_batch_size=32)
