"""What training and testing need beside the models."""

from .checkpoint import allow_mmengine_checkpoints, load_file, refuse_unsafe_checkpoints
from .errors import InputError
from .finetune import DropClassLayersHook
from .fsdp import ResumingFSDPStrategy, dualtoken_wrap_policy
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedBackbone

allow_mmengine_checkpoints()

__all__ = [
    "DropClassLayersHook",
    "InputError",
    "LayerDecayOptimWrapperConstructor",
    "PretrainedBackbone",
    "ResumingFSDPStrategy",
    "allow_mmengine_checkpoints",
    "dualtoken_wrap_policy",
    "load_file",
    "refuse_unsafe_checkpoints",
]
