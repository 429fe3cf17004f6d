"""Necks. `DualTokenFPN` builds on mmdet's FPN and is there where mmdet is installed."""

from importlib.util import find_spec

from .dualtoken_cls_neck import DualTokenClsNeck

__all__ = ["DualTokenClsNeck"]

if find_spec("mmdet") is not None:
    from .dualtoken_fpn import DualTokenFPN  # noqa: F401

    __all__ += ["DualTokenFPN"]
