"""MMPretrain's EdgeNeXt-S with four maps."""

backbone = dict(
    _delete_=True,
    type="mmpretrain.EdgeNeXt",
    arch="small",
    out_indices=(0, 1, 2, 3),
    drop_path_rate=0.1,
    gap_before_final_norm=False,  # it would average the last map to a vector
)
channels = [48, 96, 160, 304]
