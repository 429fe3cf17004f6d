"""Mask R-CNN on COCO for 12 epochs. A config on this base names the backbone."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/default_runtime.py",
    "./common.py",
    "./schedule_1x.py",
]
