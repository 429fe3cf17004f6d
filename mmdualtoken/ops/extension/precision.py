"""In which precision torchvision's kernels compute."""

import torch
from torch import Tensor


def computable(*tensors: Tensor | None) -> list:
    """The tensors in the first one's dtype, or in float32 where torchvision has no kernel for it.

    torchvision has no kernels for bfloat16. On a CPU, those for float16 add up in float16, which
    loses digits; mmcv's do so, too.
    """
    first = tensors[0]
    half = first.dtype == torch.bfloat16 or (first.dtype == torch.float16 and not first.is_cuda)
    dtype = torch.float32 if half else first.dtype
    return [tensor if tensor is None else tensor.to(dtype) for tensor in tensors]
