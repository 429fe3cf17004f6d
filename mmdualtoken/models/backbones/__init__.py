"""Backbones."""

from .dualtoken_vit import DualTokenViT
from .dualtoken_vit_stride4 import DualTokenViTStride4

__all__ = ["DualTokenViT", "DualTokenViTStride4"]
