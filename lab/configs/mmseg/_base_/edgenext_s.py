"""MMPretrain's EdgeNeXt-S for segmentors: its last map is resized to that of stride 8."""

_base_ = "../../_base_/edgenext_s.py"

segmentor = dict(
    backbone=_base_.backbone,
    neck=dict(target=1),
    decode_head=dict(in_index=3, in_channels=_base_.channels[3]),
    auxiliary_head=dict(in_index=2, in_channels=_base_.channels[2]),
)
# Of the first map nothing is read: its norm takes no part in the loss.
find_unused_parameters = True
