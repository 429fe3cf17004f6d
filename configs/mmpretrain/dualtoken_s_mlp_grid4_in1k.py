"""A 4x4 grid of tokens (paper: Table 7)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(token_mlp="mlp", token_size=(4, 4)))
