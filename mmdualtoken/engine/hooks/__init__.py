"""Hooks: whole checkpoints, exact resume, signals, NaN losses.

`DropClassLayersHook` is in `engine/finetune.py`, with what it does; those of `watch` are there.
"""

from .atomic_checkpoint import AtomicCheckpointHook, AtomicLocalBackend
from .exact_resume import ExactResumeHook
from .interrupt import InterruptHook
from .nan_loss import NanLossHook

__all__ = [
    "AtomicCheckpointHook",
    "AtomicLocalBackend",
    "ExactResumeHook",
    "InterruptHook",
    "NanLossHook",
]
