"""ResNet-18 for segmentors, dilated: its last map is at stride 8."""

segmentor = dict(
    backbone=dict(
        _delete_=True,
        type="ResNetV1c",
        depth=18,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=None,
    decode_head=dict(in_index=3, in_channels=512),
    auxiliary_head=dict(in_index=2, in_channels=256),
)
