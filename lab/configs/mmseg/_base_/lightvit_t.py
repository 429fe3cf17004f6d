"""LightViT-T for segmentors: its last map is resized to that of stride 8."""

_base_ = "../../_base_/lightvit_t.py"

segmentor = dict(
    backbone=dict(_base_.backbone, out_norm_cfg=dict(type="SyncBN")),
    decode_head=dict(in_channels=_base_.channels[2]),
    auxiliary_head=dict(in_channels=_base_.channels[1]),
)
# Of the first map the neck reads the size alone: its norm takes no part in the loss.
find_unused_parameters = True
