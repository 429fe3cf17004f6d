"""Normal tokens that attend to the downsampled, attended features (paper: Table 6, Figure 3d)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(
    backbone=dict(_base_.backbone, token_mlp="mlp", token_module="msa", token_size=8),
    neck=_base_.neck,
)
