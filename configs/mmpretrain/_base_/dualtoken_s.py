"""DualToken-ViT-S (mix) for classifiers, and its neck."""

backbone = dict(
    type="DualTokenViT", arch="small", token_mlp="mix", out_indices=(2,), drop_path_rate=0.1
)
neck = dict(type="DualTokenClsNeck", in_channels=256, out_channels=1280)
