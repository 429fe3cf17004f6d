"""RetinaNet on BCCD's blood cells at 256x192 pixels, from scratch; the budgets say how long.

Different from COCO's config: three classes, small images, no drop path, gradient clipping.
"""

_base_ = "../../../configs/mmdet/retinanet_dualtoken_s_1x.py"

metainfo = dict(classes=("RBC", "WBC", "Platelets"))
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(drop_path_rate=0.0),
    bbox_head=dict(num_classes=3),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (256, 192)
train_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
