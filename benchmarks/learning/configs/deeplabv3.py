"""DeepLabv3 on CamVid's street scenes at 0.4 of their size, from scratch; the budgets say how long.

Different from ADE20K's config: eleven classes numbered from 0, crops of 128 pixels of images of
192x144, no drop path, batch 4 for a few hundred iterations, gradient clipping.
"""

_base_ = "../../../configs/mmseg/deeplabv3_dualtoken_s_160k.py"

names = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car"]
names += ["Pedestrian", "Bicyclist"]
own = dict(type="BaseSegDataset", data_root="data/camvid/", metainfo=dict(classes=names))
crop = (128, 128)

model = dict(
    data_preprocessor=dict(size=crop),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = (192, 144)
train_pipeline[3].crop_size = crop
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(**own, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(**own, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
