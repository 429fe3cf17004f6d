"""The 3x schedule: 36 epochs, the shorter side 480 to 800 pixels (paper: Tables 3, 4)."""

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=36, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
# Replaces the Resize step of MMDetection's training pipeline.
multi_scale = dict(
    type="RandomChoiceResize", scales=[(1333, s) for s in range(480, 801, 32)], keep_ratio=True
)
