"""DualToken-ViT-T (mix) from the shipped weights, for a few hundred images in class folders."""

_base_ = ["./_base_/finetune.py", "./_base_/dualtoken_t.py"]

model = dict(backbone=dict(_base_.backbone, token_size=4, drop_path_rate=0.0), neck=_base_.neck)
load_from = "mmdualtoken://tiny"
custom_hooks = [_base_.finetune.ema, dict(type="DropClassLayersHook")]
