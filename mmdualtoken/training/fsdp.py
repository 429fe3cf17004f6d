"""Sharding of parameters, gradients and optimizer states over processes (PyTorch's FSDP)."""

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.registry import FUNCTIONS, STRATEGIES
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from mmdualtoken.models.blocks import DualTokenBlock
from mmdualtoken.training.distributed import without_sync_bn


@FUNCTIONS.register_module(force=True)
def dualtoken_wrap_policy(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Make each Dual Token block a unit of its own; all else is the root's.

    For configs: strategy = dict(type='ResumingFSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='dualtoken_wrap_policy')). The arguments are those of every
    auto_wrap_policy of PyTorch.
    """
    return transformer_auto_wrap_policy(
        module, recurse, nonwrapped_numel, transformer_layer_cls={DualTokenBlock}
    )


@STRATEGIES.register_module(force=True)
class ResumingFSDPStrategy(FSDPStrategy):
    """MMEngine's FSDPStrategy, which can also resume a run.

    MMEngine 0.10 hands the optimizer's states to PyTorch in an order of arguments that changed.
    """

    def _wrap_model(self, model: nn.Module) -> FullyShardedDataParallel:
        return super()._wrap_model(model if torch.cuda.is_available() else without_sync_bn(model))

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's states, of the whole model or of this process's part."""
        parts = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(parts)
