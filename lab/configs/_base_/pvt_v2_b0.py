"""MMDetection's PVTv2-b0 with four maps."""

backbone = dict(
    _delete_=True,
    type="PyramidVisionTransformerV2",
    embed_dims=32,
    num_layers=[2, 2, 2, 2],
    drop_path_rate=0.1,
)
channels = [32, 64, 160, 256]
