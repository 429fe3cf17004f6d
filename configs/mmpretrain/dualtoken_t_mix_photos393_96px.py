"""DualToken-ViT-T (mix) on 256,562 photos of 96 pixels: the end of mmdualtoken://tiny's training.

Starts from dualtoken_t_mix_photos393.py by --load-from: 1,200 iterations more, at a third of the
rate, which falls to a hundredth.
"""

_base_ = "./dualtoken_t_mix_photos393.py"

size = 96
train_pipeline = [
    dict(step, scale=size) if step.type == "RandomResizedCrop" else step
    for step in _base_.train_dataloader.dataset.pipeline
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=size * 9 // 8, edge="short"),
    dict(type="CenterCrop", crop_size=size),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1200, val_interval=1200)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-1, by_epoch=False, end=50),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=False, begin=50, end=1200),
]
