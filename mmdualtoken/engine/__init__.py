"""What training and testing need beside the models."""

from .checkpoint import (
    allow_mmengine_checkpoints,
    allow_unsafe_checkpoints,
    load_file,
    load_remote,
    refuse_unsafe_checkpoints,
)
from .errors import InputError
from .finetune import DropClassLayersHook
from .fsdp import ResumingFSDPStrategy, dualtoken_wrap_policy
from .hooks import (
    AtomicCheckpointHook,
    AtomicLocalBackend,
    ExactResumeHook,
    InterruptHook,
    NanLossHook,
    StrictLoadHook,
)
from .layer_decay import LayerDecayOptimWrapperConstructor
from .pretrained import PretrainedBackbone
from .reliability import add_reliability
from .runner import ResumableEpochLoop, ResumableIterLoop

allow_mmengine_checkpoints()

__all__ = [
    "AtomicCheckpointHook",
    "AtomicLocalBackend",
    "DropClassLayersHook",
    "ExactResumeHook",
    "InputError",
    "InterruptHook",
    "LayerDecayOptimWrapperConstructor",
    "NanLossHook",
    "PretrainedBackbone",
    "ResumableEpochLoop",
    "ResumableIterLoop",
    "ResumingFSDPStrategy",
    "StrictLoadHook",
    "add_reliability",
    "allow_mmengine_checkpoints",
    "allow_unsafe_checkpoints",
    "dualtoken_wrap_policy",
    "load_file",
    "load_remote",
    "refuse_unsafe_checkpoints",
]
