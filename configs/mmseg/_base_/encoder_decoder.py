"""What DeepLabv3 and PSPNet share: a head on the last map at stride 8, an auxiliary FCN head.

The toolbox's own models have that map from dilated backbones.
"""

custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

norm_cfg = dict(type="SyncBN", requires_grad=True)  # MMEngine makes it BN in a single process
common = dict(num_classes=150, dropout_ratio=0.1, norm_cfg=norm_cfg, align_corners=False)

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=None,  # named by each config, with the channels of the heads
    # A backbone that ends at stride 32: its last map is resized to that of stride 8.
    neck=dict(type="ResizeNeck", source=-1, target=0),
    decode_head=dict(
        **common,
        in_index=2,
        channels=512,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
    auxiliary_head=dict(
        **common,
        type="FCNHead",
        in_index=1,
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
