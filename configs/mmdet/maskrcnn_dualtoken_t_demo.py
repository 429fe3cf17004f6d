"""What `make demo` trains: tiny from the shipped weights on 600 generated scenes, in minutes.

Different from maskrcnn_dualtoken_s_demo.py, which starts from scratch: tiny with its weights and
the LayerNorm that they have at the output, Muon, fewer iterations.
"""

_base_ = ["./maskrcnn_dualtoken_s_demo.py", "../_base_/muon.py"]

iters = 200

model = dict(
    backbone=dict(
        arch="tiny",
        init_cfg=dict(type="Pretrained", checkpoint="mmdualtoken://tiny", prefix="backbone."),
        out_norm_cfg=dict(_delete_=True, type="LN", eps=1e-6),
    ),
    neck=dict(in_channels=[48, 96, 192]),
)
optim_wrapper = dict(optimizer=dict(_base_.muon, _delete_=True, lr=1e-3))
train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=iters // 10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=iters // 10, end=iters, eta_min=0),
]
default_hooks = dict(checkpoint=dict(interval=iters // 4))
