"""MMPretrain's MobileViT-S with four maps."""

backbone = dict(_delete_=True, type="mmpretrain.MobileViT", arch="small", out_indices=(1, 2, 3, 4))
channels = [64, 96, 128, 640]
