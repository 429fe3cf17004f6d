"""Downsampling to the token grid in one step (paper: Table 9)."""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(downsample="onestep"))
