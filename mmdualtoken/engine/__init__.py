"""What training and testing need beside the models."""

from .checkpoint import allow_mmengine_checkpoints, load_file, refuse_unsafe_checkpoints
from .errors import InputError

allow_mmengine_checkpoints()

__all__ = ["InputError", "allow_mmengine_checkpoints", "load_file", "refuse_unsafe_checkpoints"]
