"""DualToken-ViT-T (mix) with BatchNorm at the output, for few images from scratch.

Different from the paper's design (LayerNorm): docs/learning.md has the evidence.
"""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=dict(_base_.backbone, out_norm_cfg=dict(type="BN")), neck=_base_.neck)
