"""SegFormer's head for a few hundred images, from the shipped weights. A config names the data.

Different from the recipe for ADE20K: 600 iterations of 8 images in place of 160k of 16, Muon at one
rate for backbone and head, and images of 320 pixels.
"""

_base_ = ["./segformer_160k.py", "../../_base_/finetune.py"]

scale, crop = (1280, 320), (320, 320)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize, at the size of the original mask
    dict(type="PackSegInputs"),
]
model = dict(data_preprocessor=dict(size=crop))
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = _base_.finetune.optim_wrapper
train_cfg = _base_.finetune.train_cfg
param_scheduler = _base_.finetune.param_scheduler
default_hooks = _base_.finetune.default_hooks
custom_hooks = [_base_.finetune.ema]
auto_scale_lr = dict(base_batch_size=8)
