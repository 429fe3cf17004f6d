"""Mask R-CNN, DualToken-ViT-T with a map at stride 4, for objects of some ten pixels.

Different from the paper's design, whose FPN upsamples the map at stride 8: docs/learning.md has the
evidence. Anchors are COCO's, of 32 pixels and more: docs/own-data.md has what smaller objects need.
"""

_base_ = "./maskrcnn_dualtoken_s_1x.py"

model = dict(
    backbone=dict(type="DualTokenViTStride4", arch="tiny"),
    neck=dict(type="FPN", in_channels=[48, 48, 96, 192], out_channels=256),
)
