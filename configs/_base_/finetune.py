"""How the fine-tuning recipes of all three toolboxes train: 600 iterations by Muon, with averages.

For a few hundred images, from the shipped weights. A recipe takes what it needs from here.
"""

iters = 600

finetune = dict(
    weights=dict(type="Pretrained", checkpoint="mmdualtoken://tiny", prefix="backbone."),
    # The weights' own norm; the stem's BatchNorm keeps their statistics, whatever the batch.
    norms=dict(out_norm_cfg=dict(type="LN", eps=1e-6), norm_eval=True),
    optim_wrapper=dict(
        _delete_=True,
        type="OptimWrapper",
        optimizer=dict(type="MuonAdamW", lr=2e-3, weight_decay=0.05),
        clip_grad=dict(max_norm=10.0),
        paramwise_cfg=dict(
            flat_decay_mult=0.0,
            custom_keys={"global_tokens": dict(decay_mult=0.0)},
            bypass_duplicate=True,  # RTMDet's levels share convolutions
        ),
    ),
    train_cfg=dict(
        _delete_=True, type="IterBasedTrainLoop", max_iters=iters, val_interval=iters // 3
    ),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=iters // 10),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=iters // 10, end=iters, eta_min=0),
    ],
    default_hooks=dict(
        checkpoint=dict(by_epoch=False, interval=iters // 3, max_keep_ckpts=3),
        logger=dict(interval=20),
    ),
    # Averaged weights are evaluated and saved: over few iterations at first, some 60 at the end.
    ema=dict(
        type="EMAHook",
        ema_type="MomentumAnnealingEMA",
        gamma=10,
        momentum=0.01,
        update_buffers=True,
    ),
)
