"""RTMDet-tiny as MMDetection has it, with CSPNeXt: from scratch, by the same recipe as ours."""

_base_ = "../../../configs/mmdet/_base_/rtmdet_tiny.py"

model = dict(backbone=dict(init_cfg=None))
