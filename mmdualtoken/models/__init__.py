"""Models of DualToken-ViT, registered in MMEngine's root registry on import."""

from .backbones import DualTokenViT
from .necks import DualTokenClsNeck, ResizeNeck

__all__ = ["DualTokenClsNeck", "DualTokenViT", "ResizeNeck"]
