"""A set of the user's own: its masks number the classes from 0, 255 is ignored."""

_base_ = "../../configs/mmseg/pspnet_dualtoken_s_160k.py"

classes = (
    "Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist".split()  # noqa: SIM905
)
own = dict(
    type="BaseSegDataset",
    metainfo=dict(classes=classes, palette=[[20 * i, 0, 0] for i in range(11)]),
)
train_dataloader = val_dataloader = test_dataloader = dict(dataset=own)
model = dict(decode_head=dict(num_classes=11), auxiliary_head=dict(num_classes=11))
