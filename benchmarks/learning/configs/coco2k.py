"""RetinaNet on 2,154 photos of COCO, 80 classes, at 320 pixels; the budgets say how long.

Different from COCO's config: the data, small images, no drop path, gradient clipping.
"""

_base_ = ["../../../configs/mmdet/retinanet_dualtoken_s_1x.py", "./_base_/coco2k.py"]

model = dict(data_preprocessor=dict(pad_size_divisor=32), backbone=dict(drop_path_rate=0.0))
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (320, 320)
train_dataloader = dict(dataset=dict(**_base_.coco2k, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**_base_.coco2k, pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
