"""Inference on the CPU in pieces whose buffers stay in the cache.

A wide buffer that is written once and read once (the hidden layer of an FFN, a map at half the
image's resolution) costs the CPU more in memory traffic, and in pages that the system hands out
and takes back, than in arithmetic. Results are the same: every piece is computed independently.
"""

from collections.abc import Callable

import torch

# Elements of the widest buffer of a piece, per thread: 1 MiB in fp32, about a core's own cache.
PIECE = 2**18


def whole(x: torch.Tensor) -> bool:
    """Whether `x` is computed in one go.

    So it is on a GPU, whose allocator keeps its memory, where the backward pass will want the
    buffers anyway, and where a graph is recorded, which must not depend on the size.
    """
    return (
        x.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


def by_positions(function: Callable, x: torch.Tensor, width: int) -> torch.Tensor:
    """`function` of features (..., C), one that treats each position by itself.

    Args:
        function: (..., C) -> (..., C').
        x: (..., C).
        width: channels of the widest buffer that `function` makes.
    """
    if whole(x):  # first: a graph must not see what follows
        return function(x)
    rows = max(1, PIECE * torch.get_num_threads() // width)
    if x.shape[:-1].numel() <= rows:
        return function(x)
    pieces = [function(piece) for piece in x.flatten(0, -2).split(rows)]
    return torch.cat(pieces).unflatten(0, x.shape[:-1])


def by_images(function: Callable, x: torch.Tensor, width: int) -> torch.Tensor:
    """`function` of images (B, C, H, W), one that treats each image by itself.

    Args:
        function: (b, C, H, W) -> (b, C', H', W').
        x: (B, C, H, W).
        width: elements per pixel of `x` of the widest buffer that `function` makes.
    """
    if whole(x):
        return function(x)
    images = max(1, PIECE * torch.get_num_threads() // max(1, width * x.shape[-2:].numel()))
    if len(x) <= images:
        return function(x)
    return torch.cat([function(piece) for piece in x.split(images)])
