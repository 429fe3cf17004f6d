"""ResNet-50 with four maps, without published weights, like the configs it is compared with."""

resnet50 = dict(
    _delete_=True,
    type="ResNet",
    depth=50,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    # MMDetection's default freezes the statistics; those of random weights would normalise nothing.
    norm_eval=False,
    style="pytorch",
)
resnet50_channels = [256, 512, 1024, 2048]
