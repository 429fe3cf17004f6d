"""A narrow classifier on generated scenes in the ImageNet layout."""

default_scope = "mmpretrain"
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

arch = dict(embed_dims=(16, 16, 16), depths=(1, 1, 1), num_heads=(2, 2, 2), ffn_ratios=(2, 2, 2))
model = dict(
    type="ImageClassifier",
    backbone=dict(type="DualTokenViT", arch=arch, token_mlp="mix", out_indices=(2,)),
    neck=dict(type="DualTokenClsNeck", in_channels=16, out_channels=32),
    head=dict(type="LinearClsHead", num_classes=4, in_channels=32),
    data_preprocessor=dict(num_classes=4, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True),
)

pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64)),
    dict(type="PackInputs"),
]
dataset = dict(type="CustomDataset", data_root="data/imagenet/", pipeline=pipeline)
common = dict(batch_size=4, num_workers=0)
train_dataloader = dict(
    dataset=dict(data_prefix="train", **dataset),
    sampler=dict(type="DefaultSampler", shuffle=True),
    **common,
)
val_dataloader = dict(
    dataset=dict(data_prefix="val", **dataset),
    sampler=dict(type="DefaultSampler", shuffle=False),
    **common,
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
visualizer = dict(type="UniversalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
default_hooks = dict(
    visualization=dict(type="VisualizationHook", enable=False),
    checkpoint=dict(type="CheckpointHook", interval=1),
)
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=100)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
