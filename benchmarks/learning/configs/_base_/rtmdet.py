"""RTMDet on small images from scratch: what the configs of its sets differ in from COCO's.

No Mosaic, no MixUp, no average of weights, no drop path, gradient clipping, channels in the order
of the shipped weights.
"""

rtmdet_model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(drop_path_rate=0.0),
)
rtmdet_train = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(320, 320), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
rtmdet_val = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
rtmdet_optim_wrapper = dict(clip_grad=dict(max_norm=10.0))
