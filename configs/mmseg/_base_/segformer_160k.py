"""SegFormer on ADE20K, 160k iterations: its head on all maps. A config names the backbone."""

_base_ = ["./encoder_decoder.py", "./ade20k.py", "./schedule_160k.py"]

model = dict(
    neck=None,
    decode_head=dict(type="SegformerHead", in_index=(0, 1, 2), channels=256),
    auxiliary_head=None,
)
