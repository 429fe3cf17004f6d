"""What several test files share: small models, every variant, weights that hide nothing."""

import logging
import os
from contextlib import contextmanager

import reference
import torch
from mmengine.logging import MMLogger
from torch.nn.modules.batchnorm import _BatchNorm

from mmdualtoken.models import DualTokenViT

# Three different widths and head counts, more than one block where tokens are handed on.
NARROW = dict(embed_dims=(16, 24, 32), depths=(1, 2, 2), num_heads=(2, 2, 4), ffn_ratios=(8, 4, 4))
TINY = dict(embed_dims=(48, 96, 192), depths=(2, 6, 4), num_heads=(2, 4, 8), ffn_ratios=(8, 4, 4))
SMALL = dict(embed_dims=(64, 128, 256), depths=(2, 6, 6), num_heads=(2, 4, 8), ffn_ratios=(8, 4, 4))
ARCHS = dict(tiny=TINY, small=SMALL)

VARIANTS = {
    "mlp": dict(token_mlp="mlp"),
    "mix": dict(token_mlp="mix"),
    "mlp-3x5": dict(token_mlp="mlp", token_size=(3, 5)),
    "mix-3x5": dict(token_mlp="mix", token_size=(3, 5)),
    "alpha": dict(token_mlp="mix", alpha=0.7),
    "none": dict(token_module="none"),
    "none-3x5": dict(token_module="none", token_size=(3, 5)),
    "normal": dict(token_module="normal", token_size=8),
    "msa": dict(token_module="msa", token_size=8),
    "window": dict(token_mlp="mix", local_encoder="window"),
    "onestep": dict(token_mlp="mix", downsample="onestep"),
    "window-onestep-msa": dict(
        local_encoder="window", downsample="onestep", token_module="msa", token_size=5
    ),
    "no-encoder-anywhere": dict(arch=dict(NARROW, kernel_sizes=(None, None, None))),
    "encoder-everywhere": dict(arch=dict(NARROW, kernel_sizes=(3, 5, 7), down_convs=(2, 1, 0))),
    "out-first": dict(out_indices=(0,)),
    "out-last": dict(out_indices=(2,)),
    "out-two": dict(out_indices=(0, 1), token_mlp="mix"),
    "out-ends": dict(out_indices=(0, 2)),
    "norm-bn": dict(out_norm_cfg=dict(type="BN")),
    "norm-none": dict(out_norm_cfg=None),
    "tiny-mlp": dict(arch="tiny", token_mlp="mlp"),
    "small-mix": dict(arch="small", token_mlp="mix"),
}


def randomise(module, seed=0):
    """Random weights of the size that keeps activations near 1, in place.

    Tokens of 0.02, gamma of 1e-6, zero biases and unit norms, which a model starts with, would
    hide most mistakes from a comparison of values.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor):
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith(("global_tokens", "relative_position_bias_table")):
                value.copy_(normal(value))
            elif value.dim() > 1:
                value.copy_(normal(value) / value[0].numel() ** 0.5)
            elif name.endswith("bias"):
                value.copy_(0.2 * normal(value))
            else:  # weights of norms, layer scale
                value.copy_(1 + 0.2 * normal(value))
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.running_mean.copy_(0.2 * normal(part.running_mean))
                variance = part.running_var
                noise = torch.rand(variance.shape, generator=generator, dtype=variance.dtype)
                variance.copy_(1 + 0.5 * noise)
    return module


def exact(module, seed=0):
    """The module in float64 and eval mode with random weights, and its parameters by name."""
    module = randomise(module.double().eval(), seed)
    return module, params(module)


def params(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(actual, expected, tol=1e-9):
    """In float64, 1e-9 tells apart even the two epsilons of LayerNorm, which 1e-5 would not."""
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


def distance(actual, expected):
    """Largest difference of two tuples of maps, relative to the largest value."""
    return max(
        ((a - e).abs().max() / e.abs().max()).item() for a, e in zip(actual, expected, strict=True)
    )


def rand(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def build(**settings):
    """DualTokenViT, narrow unless said otherwise."""
    return DualTokenViT(**{"arch": NARROW, **settings})


def run_reference(p, image, **settings):
    """The reference on the backbone's own settings."""
    settings = dict(settings)
    arch = settings.pop("arch", NARROW)
    arch = ARCHS.get(arch, arch) if isinstance(arch, str) else arch
    kernels = arch.get("kernel_sizes", (5, 7, None))
    convs = arch.get("down_convs", (1, 0, 0))
    norm = settings.pop("out_norm_cfg", dict(type="LN"))
    return reference.backbone(
        p,
        image,
        depths=arch["depths"],
        num_heads=arch["num_heads"],
        has_encoder=[k is not None for k in kernels],
        down_convs=[None if k is None else m for k, m in zip(kernels, convs, strict=True)],
        norm=norm and norm["type"],
        **settings,
    )


@contextmanager
def log_lines():
    """The lines that MMEngine's current logger gets inside the block."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)  # an earlier test may have left one that says less
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class Runs:
    """What a checkpoint must not be able to do."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)
