"""ImageNet-1k, 300 epochs, batch 1024 = 8 GPUs x 128. A config names the backbone and the neck."""

_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

model = dict(
    type="ImageClassifier",
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=1280,  # of our neck
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        cal_acc=False,
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)]),
)

train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.04),
    paramwise_cfg=dict(custom_keys={"global_tokens": dict(decay_mult=0.0)}),
)
param_scheduler = [
    # Warm-up over 20 epochs from 1e-7, then a cosine to 1e-6.
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=True, begin=20),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))  # of 300, 140 MB each
