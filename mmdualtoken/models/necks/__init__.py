"""Necks. `DualTokenFPN` subclasses mmdet's FPN, so that it exists only where mmdet is installed."""

from importlib.util import find_spec

from mmdualtoken.models.necks.dualtoken_cls_neck import DualTokenClsNeck
from mmdualtoken.models.necks.resize_neck import ResizeNeck

__all__ = ["DualTokenClsNeck", "ResizeNeck"]

if find_spec("mmdet") is not None:
    from mmdualtoken.models.necks.dualtoken_fpn import DualTokenFPN  # noqa: F401

    __all__ += ["DualTokenFPN"]
