"""Mask R-CNN, MobileNetV2, COCO, 36 epochs, multi-scale: as our models, by the same recipe."""

_base_ = ["./maskrcnn_dualtoken_s_1x.py", "../_base_/mobilenet_v2.py", "./_base_/ms_3x.py"]
model = dict(
    backbone=_base_.mobilenet_v2,
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=_base_.mobilenet_v2_channels,
        out_channels=256,
        num_outs=5,
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2] = _base_.ms_resize
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = _base_.train_cfg_3x
param_scheduler = _base_.param_scheduler_3x
