"""CIFAR-10's photos, enlarged to 64 pixels, from scratch; the budgets say how long.

Different from ImageNet's config: ten classes, crops and flips alone, no mixing of images, no drop
path, gradient clipping.
"""

_base_ = "../../../configs/mmpretrain/dualtoken_s_mix_in1k.py"

classes = ["airplane", "automobile", "bird", "cat", "deer"]
classes += ["dog", "frog", "horse", "ship", "truck"]
root = "data/cifar10/"

model = dict(backbone=dict(drop_path_rate=0.0), head=dict(num_classes=10), train_cfg=None)
data_preprocessor = dict(num_classes=10)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="Resize", scale=64, interpolation="bilinear"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=64, interpolation="bilinear"),
    dict(type="PackInputs"),
]
common = dict(_delete_=True, type="CustomDataset", data_root=root, classes=classes)
train_dataloader = dict(
    dataset=dict(**common, ann_file="train.txt", data_prefix="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=100,
    dataset=dict(**common, ann_file="val.txt", data_prefix="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
