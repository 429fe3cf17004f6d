"""What our RTMDets change in MMDetection's recipes, which base files for each size inherit."""

custom_imports = dict(imports=["mmdualtoken"], allow_failed_imports=False)

# No weight decay on layer scales and global tokens either; the recipes have none on biases, norms.
no_decay = dict(flat_decay_mult=0.0, custom_keys={"global_tokens": dict(decay_mult=0.0)})
