"""Models of DualToken-ViT, registered in MMEngine's root registry on import."""

from mmdualtoken.models.contrast_init import StemContrastInit
from mmdualtoken.models.deploy import switch_to_deploy
from mmdualtoken.models.dualtoken_vit import DualTokenViT
from mmdualtoken.models.dualtoken_vit_stride4 import DualTokenViTStride4
from mmdualtoken.models.necks import DualTokenClsNeck, ResizeNeck

__all__ = [
    "DualTokenClsNeck",
    "DualTokenViT",
    "DualTokenViTStride4",
    "ResizeNeck",
    "StemContrastInit",
    "switch_to_deploy",
]
