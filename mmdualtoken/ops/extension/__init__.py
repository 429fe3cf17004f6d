"""The module ``mmcv._ext``: functions with the names and arguments of mmcv's compiled ones.

They write into the tensors that ``mmcv.ops`` allocates for results. A name without a replacement
gives a function that raises when it is called. Python imports this package as ``mmcv._ext``, not as
a part of mmdualtoken: it imports nothing but NumPy, torch, torchvision and, relatively, itself.
"""

from . import boxes, deformable, focal_loss, masks, rois
from .missing import missing_operator

#: The operators with a replacement.
OPERATORS = {
    name: getattr(module, name)
    for module in (boxes, deformable, focal_loss, masks, rois)
    for name in module.__all__
}
__all__ = ["get_compiler_version", "get_compiling_cuda_version", *OPERATORS]


def get_compiler_version() -> str:
    """What environment reports print as mmcv's compiler."""
    return "nothing was compiled: mmdualtoken's operators, by torchvision"


def get_compiling_cuda_version() -> str:
    """What environment reports print as mmcv's CUDA compiler."""
    return get_compiler_version()


def __getattr__(name: str):
    # mmcv.ops looks up all names when it is imported; models fail only where they need one.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return OPERATORS.get(name) or missing_operator(name)
