"""A narrow segmentor on generated scenes in the ADE20K layout."""

default_scope = "mmseg"
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

arch = dict(embed_dims=(16, 16, 16), depths=(1, 1, 1), num_heads=(2, 2, 2), ffn_ratios=(2, 2, 2))
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor", mean=[128.0] * 3, std=[64.0] * 3, size=(64, 64), seg_pad_val=255
    ),
    backbone=dict(type="DualTokenViT", arch=arch, out_norm_cfg=dict(type="BN")),
    decode_head=dict(
        type="FCNHead",
        in_channels=16,
        in_index=2,
        channels=16,
        num_convs=1,
        num_classes=5,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)

classes = ("background", "disc", "square", "triangle", "star")
dataset = dict(
    type="BaseSegDataset",
    data_root="data/ade/",
    metainfo=dict(classes=classes, palette=[[40 * i, 0, 0] for i in range(5)]),
    reduce_zero_label=True,
)
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True)]
resize = dict(type="Resize", scale=(64, 64), keep_ratio=False)
pack = dict(type="PackSegInputs")


def loader(split, pipeline):
    prefix = dict(img_path=f"images/{split}", seg_map_path=f"annotations/{split}")
    return dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=split == "training"),
        dataset=dict(data_prefix=prefix, pipeline=pipeline, **dataset),
    )


train_dataloader = loader("training", [*load, resize, pack])
val_dataloader = loader("validation", [load[0], resize, load[1], pack])
test_dataloader = val_dataloader
del loader  # a config holds values only
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
default_hooks = dict(
    visualization=dict(type="SegVisualizationHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2),
)
log_processor = dict(by_epoch=False)
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=100)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
