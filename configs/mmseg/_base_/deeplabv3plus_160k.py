"""A light DeepLabv3+ on ADE20K, 160k iterations. A config names the backbone.

Depthwise separable convolutions on the last map as it is, at stride 32, and on the first.
"""

_base_ = ["./encoder_decoder.py", "./ade20k.py", "./schedule_160k.py"]

model = dict(
    neck=None,
    decode_head=dict(
        type="DepthwiseSeparableASPPHead",
        channels=128,
        dilations=(1, 3, 6, 9),  # at stride 32 as far as DeepLabv3's (1, 12, 24, 36) at stride 8
        c1_channels=48,
    ),
)
