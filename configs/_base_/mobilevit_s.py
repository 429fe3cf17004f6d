"""MMPretrain's MobileViT-S with four maps."""

mobilevit_s = dict(
    _delete_=True, type="mmpretrain.MobileViT", arch="small", out_indices=(1, 2, 3, 4)
)
mobilevit_s_channels = [64, 96, 128, 640]
