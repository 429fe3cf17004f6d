"""LightViT-T, lab/lightvit.py, with three maps, its neck of Mask R-CNN, and ours from scratch."""

backbone = dict(
    _delete_=True,
    type="LightViT",
    arch="tiny",
    drop_path_rate=0.1,
    out_norm_cfg=dict(type="BN"),  # as ours from scratch
)
channels = [64, 128, 256]
fpn = dict(_delete_=True, type="DualTokenFPN", in_channels=channels, num_outs=5)
