"""Mask R-CNN, EdgeNeXt-S, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./maskrcnn_dualtoken_s_1x.py", "../_base_/edgenext_s.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = dict(
    backbone=_base_.edgenext_s,
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=_base_.edgenext_s_channels,
        out_channels=256,
        num_outs=5,
    ),
)
