"""What all detectors share: AdamW at batch 16 = 8 GPUs x 2 images, and the package's import."""

custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, betas=(0.9, 0.999), weight_decay=0.04),
    # No weight decay on biases, norms and other 1-D parameters, nor on the global tokens.
    paramwise_cfg=dict(flat_decay_mult=0.0, custom_keys={"global_tokens": dict(decay_mult=0.0)}),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
