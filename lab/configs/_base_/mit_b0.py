"""MMSegmentation's MiT-B0, SegFormer's own backbone, with four maps."""

backbone = dict(
    _delete_=True,
    type="mmseg.MixVisionTransformer",
    embed_dims=32,
    num_layers=[2, 2, 2, 2],
    num_heads=[1, 2, 5, 8],
    sr_ratios=[8, 4, 2, 1],
    drop_path_rate=0.1,
)
channels = [32, 64, 160, 256]
