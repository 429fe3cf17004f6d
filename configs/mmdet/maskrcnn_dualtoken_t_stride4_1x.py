"""Mask R-CNN, DualToken-ViT-T with a map at stride 4, for objects of some ten pixels.

Different from the paper's design, whose FPN upsamples the map at stride 8: docs/learning.md has the
evidence. Anchors are COCO's, of 32 pixels and more: docs/own-data.md has what smaller objects need.
"""

_base_ = ["./_base_/maskrcnn_1x.py", "./_base_/dualtoken_t.py"]

model = dict(
    backbone=dict(_base_.backbone, type="DualTokenViTStride4"),
    neck=dict(in_channels=[48, *_base_.channels]),
)
