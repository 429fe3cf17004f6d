"""DualToken-ViT-S for detectors, the channels of its three maps, and Mask R-CNN's neck for them."""

backbone = dict(
    _delete_=True,
    type="DualTokenViT",
    arch="small",
    token_mlp="mix",
    drop_path_rate=0.1,
    # These two lines train the backbone from scratch: the paper published no weights.
    # It starts from ImageNet: `tools/train.py --pretrained FILE`, or `tiny`, sets
    #   init_cfg=dict(type='Pretrained', checkpoint=FILE, prefix='backbone.'),
    #   out_norm_cfg=dict(type='LN', eps=1e-6), norm_eval=True (BatchNorm of the stem).
    out_norm_cfg=dict(type="BN"),
    norm_eval=False,
)
channels = [64, 128, 256]
dualtoken_fpn = dict(_delete_=True, type="DualTokenFPN", in_channels=channels, num_outs=5)
