"""PSPNet, ResNet-18, ADE20K 512x512, dilated to stride 8, by the same recipe as our models."""

_base_ = ["./pspnet_dualtoken_s_160k.py", "../_base_/resnet18.py"]

model = dict(
    backbone=dict(
        **{**_base_.resnet18, "type": "ResNetV1c"},
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
    ),
    neck=None,  # dilated: its last map is at stride 8
    decode_head=dict(in_index=3, in_channels=_base_.resnet18_channels[3]),
    auxiliary_head=dict(in_index=2, in_channels=_base_.resnet18_channels[2]),
)
find_unused_parameters = False  # no norms of maps that nothing reads
