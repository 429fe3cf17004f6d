"""A 5x5 grid of tokens (paper: Table 7)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_mlp="mlp", token_size=(5, 5)), neck=_base_.neck)
