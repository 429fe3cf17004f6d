"""Training: hooks, loops, optimizers and strategies that configs name."""

from mmdualtoken.training.atomic_checkpoint import AtomicCheckpointHook, AtomicLocalBackend
from mmdualtoken.training.exact_resume import ExactResumeHook
from mmdualtoken.training.finetuning import DropClassLayersHook
from mmdualtoken.training.fsdp import ResumingFSDPStrategy, dualtoken_wrap_policy
from mmdualtoken.training.interrupt import InterruptHook
from mmdualtoken.training.layer_decay import LayerDecayOptimWrapperConstructor
from mmdualtoken.training.nan_loss import NanLossHook
from mmdualtoken.training.reliability import add_reliability
from mmdualtoken.training.resumable_data import ResumableEpochLoop, ResumableIterLoop
from mmdualtoken.training.strict_load import StrictLoadHook

__all__ = [
    "AtomicCheckpointHook",
    "AtomicLocalBackend",
    "DropClassLayersHook",
    "ExactResumeHook",
    "InterruptHook",
    "LayerDecayOptimWrapperConstructor",
    "NanLossHook",
    "ResumableEpochLoop",
    "ResumableIterLoop",
    "ResumingFSDPStrategy",
    "StrictLoadHook",
    "add_reliability",
    "dualtoken_wrap_policy",
]
