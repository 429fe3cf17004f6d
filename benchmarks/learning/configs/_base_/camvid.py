"""CamVid's street scenes at 0.4 of their size: what its configs differ in from ADE20K's.

Eleven classes numbered from 0, crops of 128 pixels of images of 192x144, no drop path.
"""

camvid_classes = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence"]
camvid_classes += ["Car", "Pedestrian", "Bicyclist"]
camvid = dict(
    type="BaseSegDataset", data_root="data/camvid/", metainfo=dict(classes=camvid_classes)
)
camvid_train = dict(
    **camvid,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="RandomResize", scale=(192, 144), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=(128, 128), cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        dict(type="PackSegInputs"),
    ],
)
camvid_val = dict(
    **camvid,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(192, 144), keep_ratio=True),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ],
)
camvid_model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
