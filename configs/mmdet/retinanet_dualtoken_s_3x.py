"""RetinaNet, DualToken-ViT-S, COCO, 36 epochs, multi-scale (paper: Table 4)."""

_base_ = ["./retinanet_dualtoken_s_1x.py", "./_base_/ms_3x.py"]

train_pipeline = _base_.train_pipeline
train_pipeline[2] = _base_.ms_resize
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = _base_.train_cfg_3x
param_scheduler = _base_.param_scheduler_3x
