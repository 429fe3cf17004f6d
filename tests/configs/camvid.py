"""A set of the user's own: its masks number the classes from 0, 255 is ignored."""

_base_ = "../../configs/mmseg/pspnet_dualtoken_s_160k.py"

classes = (
    "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist".split()  # noqa: SIM905
)
own = dict(
    type="BaseSegDataset",
    reduce_zero_label=False,
    metainfo=dict(classes=classes, palette=[[20 * i, 0, 0] for i in range(11)]),
)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1] = test_pipeline[2] = dict(type="LoadAnnotations")

train_dataloader = dict(dataset=dict(**own, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(**own, pipeline=test_pipeline))
test_dataloader = val_dataloader
model = dict(decode_head=dict(num_classes=11), auxiliary_head=dict(num_classes=11))
