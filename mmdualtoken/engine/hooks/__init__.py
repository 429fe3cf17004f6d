"""Hooks: whole checkpoints, exact resume, signals, NaN losses, checkpoints that fit.

`DropClassLayersHook` is in `engine/finetune.py`, with what it does; those of `watch` are there.
"""

from .atomic_checkpoint import AtomicCheckpointHook, AtomicLocalBackend
from .exact_resume import ExactResumeHook
from .interrupt import InterruptHook
from .nan_loss import NanLossHook
from .strict_load import StrictLoadHook

__all__ = [
    "AtomicCheckpointHook",
    "AtomicLocalBackend",
    "ExactResumeHook",
    "InterruptHook",
    "NanLossHook",
    "StrictLoadHook",
]
