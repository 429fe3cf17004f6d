"""PSPNet on all three maps and one at stride 4, resized to stride 8 and concatenated.

Different from the paper's design, whose head reads the last map: docs/learning.md has the evidence.
"""

_base_ = "./pspnet_dualtoken_s_160k.py"

model = dict(
    backbone=dict(type="DualTokenViTStride4"),
    neck=None,
    # Maps 0 to 3 are at strides 4 to 32; the first one named gives the size of all.
    decode_head=dict(
        input_transform="resize_concat", in_index=(1, 0, 2, 3), in_channels=(64, 64, 128, 256)
    ),
    auxiliary_head=dict(in_index=2),
)
find_unused_parameters = False  # all maps are read
