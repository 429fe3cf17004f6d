"""Pascal VOC's people, animals and seats at 192 pixels: what its configs differ in from ADE20K's.

Nine classes numbered from 0, crops of 128 pixels of images of 192x144, no drop path.
"""

voc_classes = ["background", "person", "cat", "dog", "cow", "horse", "sheep", "chair", "sofa"]
voc = dict(type="BaseSegDataset", data_root="data/voc_animals/", metainfo=dict(classes=voc_classes))
voc_train = dict(
    **voc,
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
voc_val = dict(
    **voc,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(192, 144), keep_ratio=True),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ],
)
voc_model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(num_classes=9),
    auxiliary_head=dict(num_classes=9),
)
