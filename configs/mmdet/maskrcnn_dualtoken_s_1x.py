"""Mask R-CNN, DualToken-ViT-S, COCO, 12 epochs (paper: Table 3). Batch 16 = 8 GPUs x 2 images."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
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
        # How the backbone starts. No weights are published, so these two lines train it from
        # scratch. The paper starts from ImageNet: `tools/train.py --pretrained FILE` sets
        #   init_cfg=dict(type='Pretrained', checkpoint=FILE, prefix='backbone.'),
        #   out_norm_cfg=dict(type='LN', eps=1e-6), norm_eval=True (BatchNorm of the stem).
        out_norm_cfg=dict(type="BN"),
        norm_eval=False,
    ),
    neck=dict(_delete_=True, type="DualTokenFPN", in_channels=[64, 128, 256], num_outs=5),
)

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.04),
    # No weight decay on biases, norms and other 1-D parameters, nor on the global tokens.
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"global_tokens": dict(decay_mult=0.0)}),
)
