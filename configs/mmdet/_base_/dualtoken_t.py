"""DualToken-ViT-T for detectors: as small, with narrower maps."""

_base_ = "./dualtoken_s.py"

backbone = dict(arch="tiny")
channels = [48, 96, 192]
dualtoken_fpn = dict(in_channels=channels)
