"""DeepLabv3, DualToken-ViT-S, ADE20K 512x512, 160k iterations (paper: Table 5)."""

_base_ = ["./_base_/deeplabv3.py", "./_base_/ade20k.py", "./_base_/schedule_160k.py"]
custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type="DualTokenViT",
        arch="small",
        token_mlp="mix",
        drop_path_rate=0.1,
        # From scratch. `tools/train.py --pretrained FILE` starts from a classifier: init_cfg names
        # the file, outputs are normalised by LayerNorm, the stem's BatchNorm is in eval mode.
        out_norm_cfg=dict(type="SyncBN"),
        norm_eval=False,
    )
)
# Of the first map the neck reads the size alone: its norm takes no part in the loss.
find_unused_parameters = True
