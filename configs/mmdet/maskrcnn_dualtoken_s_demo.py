"""The real config from scratch on 600 generated scenes, for minutes on a CPU.

Different from the real one: four classes, 224-pixel images, 560 iterations of batch 2 (a warm-up of
56, a cosine in the second half), twice the learning rate, gradient clipping, no drop path, and
fewer proposals and RoIs per image.
"""

_base_ = "./maskrcnn_dualtoken_s_1x.py"

data_root = "data/scenes/"
metainfo = dict(
    classes=("disc", "square", "triangle", "star"),
    palette=[(230, 60, 60), (60, 170, 60), (60, 90, 230), (240, 180, 0)],
)
iters = 560

model = dict(
    backbone=dict(drop_path_rate=0.0),
    roi_head=dict(bbox_head=dict(num_classes=4), mask_head=dict(num_classes=4)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=250),
        rcnn=dict(sampler=dict(num=48)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)

size = dict(scale=(224, 224))
train_pipeline = [
    dict(step, **size) if step.type == "Resize" else step for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, **size) if step.type == "Resize" else step for step in _base_.test_pipeline
]
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=4e-4), clip_grad=dict(max_norm=1.0))
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=iters, val_interval=iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=iters // 10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=iters // 2, end=iters, eta_min=0),
]
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=iters // 4),
    logger=dict(interval=20),
    visualization=dict(score_thr=0.5),
)
log_processor = dict(by_epoch=False)
