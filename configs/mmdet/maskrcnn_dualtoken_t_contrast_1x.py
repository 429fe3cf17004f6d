"""Mask R-CNN, DualToken-ViT-T, for few images from scratch: the stem keeps contrast at the start.

Different from the paper's design (torch's initialisation of the stem): docs/learning.md has the
evidence.
"""

_base_ = ["./_base_/maskrcnn_1x.py", "./_base_/dualtoken_t.py"]

model = dict(
    backbone=dict(_base_.backbone, init_cfg=dict(type="StemContrast")), neck=_base_.dualtoken_fpn
)
