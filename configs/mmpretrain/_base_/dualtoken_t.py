"""DualToken-ViT-T (mix) for classifiers: as small, narrower."""

_base_ = "./dualtoken_s.py"

backbone = dict(arch="tiny")
neck = dict(in_channels=192)
