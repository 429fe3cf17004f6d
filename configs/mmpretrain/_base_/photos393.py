"""256,562 small photos of 293 objects and 100 places, as data/photos393/{train,val}/CLASS/*.jpg.

docs/pretraining.md says where they come from. val/ has a folder for each class, also where it is
empty, so that the classes have the same numbers as in train/. At 64 pixels, for 5,000 iterations.

Each source has its own size and compression, and classes of its own. A model then knows the source
by the traces of JPEG, and fails on other photos. So every photo, also one for evaluation, is shrunk
to 64 pixels and compressed there.
"""

shrink = dict(type="ResizeEdge", scale=64, edge="short")
how = ("area", "bilinear", "bicubic")
train_loading = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomChoice", transforms=[[dict(shrink, interpolation=i)] for i in how]),
    dict(type="Sharpness", magnitude_range=(0, 0.8), magnitude_std="inf", total_level=10, prob=1.0),
    dict(type="RandomJPEG", quality=(60, 90)),
]
test_loading = [
    dict(type="LoadImageFromFile"),
    dict(shrink, interpolation="area"),
    dict(type="RandomJPEG", quality=(75, 75)),
]

data_preprocessor = dict(
    num_classes=393,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        data_root="data/photos393/",
        data_prefix="train",
        pipeline=[
            *train_loading,
            dict(type="RandomResizedCrop", scale=64, crop_ratio_range=(0.3, 1.0)),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root="data/photos393/",
        data_prefix="val",
        pipeline=[
            *test_loading,
            dict(type="ResizeEdge", scale=72, edge="short"),
            dict(type="CenterCrop", crop_size=64),
            dict(type="PackInputs"),
        ],
    ),
)
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
train_cfg = dict(type="IterBasedTrainLoop", max_iters=5000, val_interval=5000)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, end=100),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.15, by_epoch=False, begin=100, end=5000),
]
