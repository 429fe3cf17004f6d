"""PSPNet, MobileViT-S, ADE20K 512x512, by the same recipe as our models."""

_base_ = ["./pspnet_dualtoken_s_160k.py", "../_base_/mobilevit_s.py"]
custom_imports = dict(imports=["mmdualtoken", "mmpretrain.models"])

model = dict(
    backbone=_base_.mobilevit_s,
    neck=dict(target=1),
    decode_head=dict(in_index=3, in_channels=_base_.mobilevit_s_channels[3]),
    auxiliary_head=dict(in_index=2, in_channels=_base_.mobilevit_s_channels[2]),
)
find_unused_parameters = False  # no norms of maps that nothing reads
