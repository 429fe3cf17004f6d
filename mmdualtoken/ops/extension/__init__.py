"""The module ``mmcv._ext``: functions with the names and arguments of mmcv's compiled ones.

They write into the tensors that ``mmcv.ops`` allocates for results. A name without a replacement
gives a function that raises when it is called. Python imports this package as ``mmcv._ext``, not as
a part of mmdualtoken: it imports nothing but NumPy, torch, torchvision and, relatively, itself.
"""

from .boxes import nms, nms_match, softnms
from .deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .masks import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from .missing import missing_operator
from .rois import roi_align_backward, roi_align_forward, roi_pool_backward, roi_pool_forward

#: The operators with a replacement, and what environment reports ask for.
__all__ = [
    "get_compiler_version",
    "get_compiling_cuda_version",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


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
    return missing_operator(name)
