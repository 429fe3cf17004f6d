"""RetinaNet, DualToken-ViT-S, COCO, 12 epochs (paper: Table 4). Batch 16 = 8 GPUs x 2 images."""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="DualTokenViT",
        arch="small",
        token_mlp="mix",
        drop_path_rate=0.1,
        # From scratch; `tools/train.py --pretrained FILE` changes these two lines, as explained
        # in maskrcnn_dualtoken_s_1x.py.
        out_norm_cfg=dict(type="BN"),
        norm_eval=False,
    ),
    neck=dict(in_channels=[64, 128, 256], start_level=0),
)

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.04),
    # No weight decay on biases, norms and other 1-D parameters, nor on the global tokens.
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"global_tokens": dict(decay_mult=0.0)}),
)
