"""The 3x schedule: 36 epochs, the shorter side 480 to 800 pixels (paper: Tables 3, 4)."""

ms_resize = dict(
    type="RandomChoiceResize", scales=[(1333, s) for s in range(480, 801, 32)], keep_ratio=True
)
train_cfg_3x = dict(max_epochs=36)
param_scheduler_3x = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
