"""Normal tokens that attend to the local features (paper: Table 6, Figure 3c)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(token_mlp="mlp", token_module="normal", token_size=8))
