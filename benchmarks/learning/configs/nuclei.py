"""Mask R-CNN, DualToken-ViT-S, from scratch on microscope images of nuclei, for minutes on a CPU.

Data: 2018 Data Science Bowl in COCO format, data/nuclei/{train,val}/*.jpg and annotations/*.json.
Different from the COCO config: one class, 256-pixel images, smaller anchors (nuclei are some 15
pixels across), fewer RoIs per image, 100 iterations of batch 4, gradient clipping, no drop path.
"""

_base_ = "../../../configs/mmdet/maskrcnn_dualtoken_s_1x.py"

data_root = "data/nuclei/"
metainfo = dict(classes=("nucleus",))
iters = 100

model = dict(
    backbone=dict(drop_path_rate=0.0),
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (256, 256)
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=iters // 10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=iters // 10, end=iters, eta_min=0),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iters // 3), logger=dict(interval=20))
log_processor = dict(by_epoch=False)
