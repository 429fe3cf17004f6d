"""RetinaNet on COCO for 12 epochs. A config on this base names the backbone."""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/default_runtime.py",
    "./common.py",
    "./schedule_1x.py",
]
