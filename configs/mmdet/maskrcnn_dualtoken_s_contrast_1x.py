"""Mask R-CNN, DualToken-ViT-S, for few images from scratch: the stem keeps contrast at the start.

Different from the paper's design (torch's initialisation of the stem): docs/learning.md has the
evidence.
"""

_base_ = "./maskrcnn_dualtoken_s_1x.py"

model = dict(backbone=dict(init_cfg=dict(type="StemContrast")))
