"""DualToken-ViT-S for segmentors, with the channels of the heads."""

channels = (64, 128, 256)
segmentor = dict(
    backbone=dict(
        _delete_=True,
        type="DualTokenViT",
        arch="small",
        token_mlp="mix",
        drop_path_rate=0.1,
        # From scratch. `tools/train.py --pretrained FILE` starts from a classifier: init_cfg names
        # the file, outputs are normalised by LayerNorm, the stem's BatchNorm is in eval mode.
        out_norm_cfg=dict(type="SyncBN"),
        norm_eval=False,
    ),
    decode_head=dict(in_channels=256),
    auxiliary_head=dict(in_channels=128),
)
# Of the first map the neck reads the size alone: its norm takes no part in the loss.
find_unused_parameters = True
