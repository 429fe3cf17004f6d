"""Weights: reading checkpoints safely, finding them, and fitting them to a model."""

from mmdualtoken.weights.checkpoints import (
    allow_mmengine_checkpoints,
    allow_unsafe_checkpoints,
    load_file,
    load_remote,
    refuse_unsafe_checkpoints,
)
from mmdualtoken.weights.pretrained import PretrainedBackbone
from mmdualtoken.weights.shipped import list_weights, register_shipped_weights, weights_info

__all__ = [
    "PretrainedBackbone",
    "allow_mmengine_checkpoints",
    "allow_unsafe_checkpoints",
    "list_weights",
    "load_file",
    "load_remote",
    "refuse_unsafe_checkpoints",
    "register_shipped_weights",
    "weights_info",
]
