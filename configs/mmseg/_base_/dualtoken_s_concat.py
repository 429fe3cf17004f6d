"""DualToken-ViT-S for segmentors whose head reads all three maps."""

_base_ = "./dualtoken_s.py"

segmentor = dict(
    neck=None,
    decode_head=dict(
        input_transform="resize_concat", in_index=(0, 1, 2), in_channels=(64, 128, 256)
    ),
)
find_unused_parameters = False  # all maps are read
