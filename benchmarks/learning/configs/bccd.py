"""RetinaNet on BCCD's blood cells at 256x192 pixels, from scratch; the budgets say how long.

Different from COCO's config: three classes, small images, no drop path, batch 4 for a few hundred
iterations, gradient clipping.
"""

_base_ = "../../../configs/mmdet/retinanet_dualtoken_s_1x.py"

root = "data/bccd/"
common = dict(data_root=root, metainfo=dict(classes=("RBC", "WBC", "Platelets")))

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(drop_path_rate=0.0),
    bbox_head=dict(num_classes=3),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (256, 192)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **common,
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **common,
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + "annotations/val.json")
test_evaluator = val_evaluator
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
