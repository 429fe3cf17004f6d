"""DualToken-ViT-S for segmentors whose head reads all three maps and one at stride 4."""

_base_ = "./dualtoken_s.py"

segmentor = dict(
    backbone=dict(type="DualTokenViTStride4"),
    neck=None,
    # Maps 0 to 3 are at strides 4 to 32; the first one named gives the size of all.
    decode_head=dict(
        input_transform="resize_concat", in_index=(1, 0, 2, 3), in_channels=(64, 64, 128, 256)
    ),
    auxiliary_head=dict(in_index=2),
)
find_unused_parameters = False  # all maps are read
