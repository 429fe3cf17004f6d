"""RetinaNet, EdgeNeXt-S, COCO, 36 epochs, multi-scale: as our models, by the same recipe."""

_base_ = ["./retinanet_dualtoken_s_1x.py", "../_base_/edgenext_s.py", "./_base_/ms_3x.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = dict(
    backbone=_base_.edgenext_s, neck=dict(in_channels=_base_.edgenext_s_channels, start_level=1)
)

train_pipeline = _base_.train_pipeline
train_pipeline[2] = _base_.ms_resize
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = _base_.train_cfg_3x
param_scheduler = _base_.param_scheduler_3x
find_unused_parameters = True  # the norm of the first map, which the neck leaves out
