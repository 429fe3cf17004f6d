"""DeepLabv3 on all three maps and one at stride 4, resized to stride 8 and concatenated.

Different from the paper's design, whose head reads the last map: docs/learning.md has the evidence.
"""

_base_ = ["./_base_/deeplabv3_160k.py", "./_base_/dualtoken_s_concat_stride4.py"]

model = _base_.segmentor
