"""Counting multiply-accumulates, attention included."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop


def _attention_flop(query, key, value, *args, out_shape=None, **kwargs) -> int:
    return sdpa_flop(query, key, value)


def counter_of_macs() -> FlopCounterMode:
    """torch's counter, attention included; it counts two for a multiply-accumulate."""
    # torch does not list its fused CPU attention, so that it would count as nothing.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}
    return FlopCounterMode(display=False, custom_mapping=fused)


def count_macs(function: Callable, *args: Any) -> float:
    """Multiply-accumulates of `function(*args)`: convolutions, matrix products and attention.

    Norms, activations, pooling and interpolation are not counted, as in the papers of this field,
    which call the figure FLOPs. Attention counts the same on fused and plain paths.

    Returns:
        the number of multiply-accumulates (not in millions).
    """
    with counter_of_macs() as counter:
        function(*args)
    return counter.get_total_flops() / 2


def count_parameters(module: torch.nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in module.parameters())
