"""Pascal VOC's people, animals and seats: what its configs differ in from ADE20K's.

Nine classes numbered from 0, sizes and crops as for CamVid, no drop path.
"""

_base_ = "./camvid.py"

voc_classes = ["background", "person", "cat", "dog", "cow", "horse", "sheep", "chair", "sofa"]
voc = dict(type="BaseSegDataset", data_root="data/voc_animals/", metainfo=dict(classes=voc_classes))
voc_train = dict(**voc, pipeline=_base_.camvid_train.pipeline)
voc_val = dict(**voc, pipeline=_base_.camvid_val.pipeline)
voc_model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(num_classes=9),
    auxiliary_head=dict(num_classes=9),
)
