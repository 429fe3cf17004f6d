"""DualToken-ViT-T (mix) with BatchNorm at the output, for few images from scratch.

Different from the paper's design (LayerNorm): docs/learning.md has the evidence.
"""

_base_ = "./dualtoken_s_mix_in1k.py"

model = dict(backbone=dict(arch="tiny", out_norm_cfg=dict(type="BN")), neck=dict(in_channels=192))
