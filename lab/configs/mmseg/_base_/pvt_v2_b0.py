"""MMDetection's PVTv2-b0 for segmentors: its last map is resized to that of stride 8."""

_base_ = "../../_base_/pvt_v2_b0.py"

segmentor = dict(
    backbone=dict(_base_.backbone, type="mmdet.PyramidVisionTransformerV2"),
    neck=dict(target=1),
    decode_head=dict(in_index=3, in_channels=_base_.channels[3]),
    auxiliary_head=dict(in_index=2, in_channels=_base_.channels[2]),
)
