"""RetinaNet, EdgeNeXt-S, COCO, 12 epochs: as our models, by the same recipe."""

_base_ = ["../../../configs/mmdet/_base_/retinanet_1x.py", "../_base_/edgenext_s.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
find_unused_parameters = True  # the norm of the first map, which the neck leaves out
