"""Normal tokens that attend to the local features (paper: Table 6, Figure 3c)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(
    backbone=dict(_base_.backbone, token_mlp="mlp", token_module="normal", token_size=8),
    neck=_base_.neck,
)
