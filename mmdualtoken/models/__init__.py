"""Models of DualToken-ViT, registered in MMEngine's root registry on import."""

from .backbones import DualTokenViT
from .deploy import switch_to_deploy
from .necks import DualTokenClsNeck, ResizeNeck

__all__ = ["DualTokenClsNeck", "DualTokenViT", "ResizeNeck", "switch_to_deploy"]
