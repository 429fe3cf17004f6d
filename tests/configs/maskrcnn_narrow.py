"""The demo's detector, narrow and at 64 pixels: a few iterations of it take seconds."""

_base_ = "../../configs/mmdet/maskrcnn_dualtoken_s_demo.py"

arch = dict(
    _delete_=True,  # the name of an arch in the base
    embed_dims=(16, 16, 16),
    depths=(1, 1, 1),
    num_heads=(2, 2, 2),
    ffn_ratios=(2, 2, 2),
)
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=[16, 16, 16], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1),
    ),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=5, score_thr=0.0)),
)

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (64, 64)
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline), **workers)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **workers)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=2, val_interval=100)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
