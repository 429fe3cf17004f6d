"""PSPNet on all three maps, resized to stride 8 and concatenated: an alternative to the last."""

_base_ = "./pspnet_dualtoken_s_160k.py"

model = dict(
    neck=None,
    decode_head=dict(
        input_transform="resize_concat", in_index=(0, 1, 2), in_channels=(64, 128, 256)
    ),
)
find_unused_parameters = False  # all maps are read
