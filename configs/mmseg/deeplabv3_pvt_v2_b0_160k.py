"""DeepLabv3, PVTv2-b0, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["./deeplabv3_dualtoken_s_160k.py", "../_base_/pvt_v2_b0.py"]
custom_imports = dict(imports=["mmdualtoken", "mmdet.models"])

model = dict(
    backbone=dict(**{**_base_.pvt_v2_b0, "type": "mmdet.PyramidVisionTransformerV2"}),
    neck=dict(target=1),
    decode_head=dict(in_index=3, in_channels=_base_.pvt_v2_b0_channels[3]),
    auxiliary_head=dict(in_index=2, in_channels=_base_.pvt_v2_b0_channels[2]),
)
find_unused_parameters = False  # no norms of maps that nothing reads
