"""A 9x9 grid of tokens (paper: Table 7)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_mlp="mlp", token_size=(9, 9)), neck=_base_.neck)
