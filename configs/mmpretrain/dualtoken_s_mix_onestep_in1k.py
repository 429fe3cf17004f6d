"""Downsampling to the token grid in one step (paper: Table 9)."""

_base_ = ["./_base_/in1k.py", "./_base_/dualtoken_s.py"]

model = dict(backbone=dict(_base_.backbone, downsample="onestep"), neck=_base_.neck)
