"""RTMDet-Ins, narrow and at 64 pixels: one epoch with mosaics and mixtures, one without."""

_base_ = "../../configs/mmdet/rtmdet-ins_dualtoken_t.py"

sizes = dict(img_scale=(64, 64), scale=(64, 64), crop_size=(64, 64), size=(64, 64))


def shrink(pipeline):
    return [{k: sizes.get(k, v) for k, v in step.items()} for step in pipeline]


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
    bbox_head=dict(num_classes=4, in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(nms_pre=50, score_thr=0.0, max_per_img=5),
)

data_root = "data/scenes/"
data = dict(data_root=data_root, metainfo=dict(classes=("disc", "square", "triangle", "star")))
workers = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=2, dataset=dict(data, pipeline=shrink(_base_.train_pipeline)), **workers
)
val_dataloader = dict(
    batch_size=1, dataset=dict(data, pipeline=shrink(_base_.test_pipeline)), **workers
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=2, val_interval=2, dynamic_intervals=[(1, 1)])
param_scheduler = []
custom_hooks = _base_.custom_hooks
custom_hooks[1].update(switch_epoch=1, switch_pipeline=shrink(_base_.train_pipeline_stage2))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
