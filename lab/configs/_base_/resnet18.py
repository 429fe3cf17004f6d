"""ResNet-18 with four maps, without published weights, like the configs it is compared with."""

backbone = dict(
    _delete_=True,
    type="ResNet",
    depth=18,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    # MMDetection's default freezes the statistics; those of random weights would normalise nothing.
    norm_eval=False,
    style="pytorch",
)
channels = [64, 128, 256, 512]
