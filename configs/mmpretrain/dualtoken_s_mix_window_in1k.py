"""Window attention in place of the Conv Encoder (paper: Table 8)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(local_encoder="window"))
