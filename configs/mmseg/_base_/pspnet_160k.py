"""PSPNet (pyramid pooling head) on ADE20K, 160k iterations. A config names the backbone."""

_base_ = ["./encoder_decoder.py", "./ade20k.py", "./schedule_160k.py"]

model = dict(decode_head=dict(type="PSPHead", pool_scales=(1, 2, 3, 6)))
