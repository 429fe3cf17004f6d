"""Mask R-CNN on COCO for 36 epochs, multi-scale. A config on this base names the backbone."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
    "./common.py",
    "./schedule_3x.py",
]

train_pipeline = [
    _base_.multi_scale if step.type == "Resize" else step for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
