"""Sharding of parameters, gradients and optimizer states over processes (PyTorch's FSDP)."""

from mmengine.registry import FUNCTIONS
from torch import nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from ..layers import DualTokenBlock


@FUNCTIONS.register_module()
def dualtoken_wrap_policy(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Make each Dual Token block a unit of its own; all else is the root's.

    For configs: strategy = dict(type='FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='dualtoken_wrap_policy')).

    Args:
        module: candidate for a unit.
        recurse: whether the question is to look inside the module.
        nonwrapped_numel: parameters in it that are in no unit yet; not used.
    """
    return transformer_auto_wrap_policy(
        module, recurse, nonwrapped_numel, transformer_layer_cls={DualTokenBlock}
    )
