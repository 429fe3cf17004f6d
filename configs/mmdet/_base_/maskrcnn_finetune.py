"""Mask R-CNN for a few hundred images, from the shipped weights. A config names neck and data.

Different from the recipe for COCO: 600 iterations of 8 images in place of 12 epochs of 16, Muon,
images of 320 pixels, anchors of half the size, heads of half the width, fewer proposals and RoIs.
"""

_base_ = ["./maskrcnn_1x.py", "../../_base_/finetune.py"]

scale = (320, 320)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=scale),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(step, scale=scale) if step.type == "Resize" else step for step in _base_.test_pipeline
]
width, hidden = 128, 512
model = dict(
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        mask_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=hidden),
        mask_head=dict(in_channels=width, conv_out_channels=width),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(_delete_=True, type="InfiniteSampler"),
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(num_workers=2, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = _base_.finetune.optim_wrapper
train_cfg = _base_.finetune.train_cfg
param_scheduler = _base_.finetune.param_scheduler
default_hooks = _base_.finetune.default_hooks
custom_hooks = [_base_.finetune.ema]
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=8)
