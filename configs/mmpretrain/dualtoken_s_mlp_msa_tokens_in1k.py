"""Normal tokens that attend to the downsampled, attended features (paper: Table 6, Figure 3d)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(token_mlp="mlp", token_module="msa", token_size=8))
