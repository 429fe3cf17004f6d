"""Models of DualToken-ViT, registered in MMEngine's root registry on import."""

from .backbones import DualTokenViT, DualTokenViTStride4
from .contrast_init import StemContrastInit
from .deploy import switch_to_deploy
from .necks import DualTokenClsNeck, ResizeNeck

__all__ = [
    "DualTokenClsNeck",
    "DualTokenViT",
    "DualTokenViTStride4",
    "ResizeNeck",
    "StemContrastInit",
    "switch_to_deploy",
]
