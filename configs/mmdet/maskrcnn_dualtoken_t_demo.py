"""What `make demo` trains: tiny from the shipped weights on 600 generated scenes, in minutes.

Different from its base, which is for users' images: 224 pixels without crops, 200 iterations of
batch 4.
"""

_base_ = "./maskrcnn_dualtoken_t_finetune.py"

data_root = "data/scenes/"
metainfo = dict(
    classes=("disc", "square", "triangle", "star"),
    palette=[(230, 60, 60), (60, 170, 60), (60, 90, 230), (240, 180, 0)],
)
iters = 200

model = dict(roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)))
test_pipeline = [
    dict(step, scale=(224, 224)) if step.type == "Resize" else step for step in _base_.test_pipeline
]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(224, 224), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")

train_cfg = dict(max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=iters // 10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=iters // 10, end=iters, eta_min=0),
]
default_hooks = dict(checkpoint=dict(interval=iters // 4), visualization=dict(score_thr=0.5))
