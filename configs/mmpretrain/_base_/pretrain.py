"""Pretraining on a few hundred thousand small photos, with Muon, in hours on a CPU.

Different from the ImageNet recipe (in1k.py): small photos and iterations instead of 300 epochs at
224 pixels, Muon, an average of the weights (EMA), and no Mixup, CutMix or stochastic depth (chosen,
not measured: each photo is seen a few times only).
"""

_base_ = ["mmpretrain::_base_/default_runtime.py", "../../_base_/muon.py"]
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

model = dict(
    type="ImageClassifier",
    head=dict(
        type="SourceClsHead",  # one softmax per source of photos
        num_classes=393,
        in_channels=1280,  # of our neck
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(_base_.muon, weight_decay=0.1),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"global_tokens": dict(decay_mult=0.0)},
    ),
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
randomness = dict(seed=0)
custom_hooks = [dict(type="EMAHook", momentum=2e-3, update_buffers=True)]
default_hooks = dict(
    logger=dict(interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=128)
