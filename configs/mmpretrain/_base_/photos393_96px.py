"""The photos of photos393.py at 96 pixels, for 1,200 iterations."""

_base_ = "./photos393.py"

train_pipeline = [
    *_base_.train_loading,
    dict(type="RandomResizedCrop", scale=96, crop_ratio_range=(0.3, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    *_base_.test_loading,
    dict(type="ResizeEdge", scale=108, edge="short"),
    dict(type="CenterCrop", crop_size=96),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1200, val_interval=1200)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-1, by_epoch=False, end=50),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-2, by_epoch=False, begin=50, end=1200),
]
