"""RTMDet-Ins-tiny on COCO, 300 epochs. A config on this base names the backbone."""

_base_ = ["mmdet::rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py", "./rtmdet.py"]

optim_wrapper = dict(paramwise_cfg=_base_.no_decay)
auto_scale_lr = dict(base_batch_size=256)  # 8 GPUs x 32 images; the recipe's own says 16
