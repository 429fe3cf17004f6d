"""MobileNetV2 for segmentors, dilated: its last map is at stride 8."""

segmentor = dict(
    backbone=dict(
        _delete_=True,
        type="MobileNetV2",
        strides=(1, 2, 2, 1, 1, 1, 1),
        dilations=(1, 1, 1, 2, 2, 4, 4),
        out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type="SyncBN", requires_grad=True),
    ),
    neck=None,
    decode_head=dict(in_index=3, in_channels=320),
    auxiliary_head=dict(in_index=2, in_channels=96),
)
