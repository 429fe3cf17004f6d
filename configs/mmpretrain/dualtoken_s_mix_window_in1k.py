"""Window attention in place of the Conv Encoder (paper: Table 8)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, local_encoder="window"), neck=_base_.neck)
