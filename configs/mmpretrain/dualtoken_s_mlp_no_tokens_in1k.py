"""Without global tokens (paper: Tables 6, 7)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(token_mlp="mlp", token_module="none"))
