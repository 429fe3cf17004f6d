"""Without global tokens (paper: Tables 6, 7)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, token_mlp="mlp", token_module="none"), neck=_base_.neck)
