"""DeepLabv3 (ASPP head) on ADE20K, 160k iterations. A config names the backbone."""

_base_ = ["./encoder_decoder.py", "./ade20k.py", "./schedule_160k.py"]

model = dict(decode_head=dict(type="ASPPHead", dilations=(1, 12, 24, 36)))
