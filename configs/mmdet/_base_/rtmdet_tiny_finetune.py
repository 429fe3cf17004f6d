"""RTMDet-tiny for a few hundred images, from the shipped weights. A config names the data.

Different from the recipe for COCO: 600 iterations of 8 images in place of 300 epochs, Muon, images
of 320 pixels, no Mosaic and no MixUp, and channels in the weights' order.
"""

_base_ = [
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "./rtmdet.py",
    "../../_base_/finetune.py",
]

scale = (320, 320)
pad = dict(type="Pad", size=scale, pad_val=dict(img=(114, 114, 114)))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=scale),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    pad,
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=scale, keep_ratio=True),
    pad,
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    )
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(_delete_=True, type="InfiniteSampler"),
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# Of 2e-3, 5e-3 and 1e-2, the best on a part of a set's training images (docs/muon.md).
optim_wrapper = dict(
    _base_.finetune.optim_wrapper,
    optimizer=dict(_base_.finetune.optim_wrapper.optimizer, lr=5e-3),
)
train_cfg = _base_.finetune.train_cfg
param_scheduler = _base_.finetune.param_scheduler
default_hooks = _base_.finetune.default_hooks
custom_hooks = [_base_.finetune.ema]
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=8)
