"""Mask R-CNN, PVTv2-b0, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["./maskrcnn_dualtoken_s_1x.py", "../_base_/pvt_v2_b0.py"]
model = dict(
    backbone=_base_.pvt_v2_b0,
    neck=dict(
        _delete_=True,
        type="FPN",
        in_channels=_base_.pvt_v2_b0_channels,
        out_channels=256,
        num_outs=5,
    ),
)
