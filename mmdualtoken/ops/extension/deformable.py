"""Deformable convolution (v1 and, with a mask, v2) and deformable attention."""

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from .gradients import gradients
from .precision import computable

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
]


def convolution(stride: tuple, padding: tuple, dilation: tuple):
    """The function (input, offset, weight, bias, mask) -> output.

    Two habits of mmcv's kernels are kept. An offset that is NaN or infinite samples outside the
    map, which gives 0; torchvision's would read memory that is not the map's. And where offsets or
    masks are larger than the output, as in DyHead, their first numbers are read.
    """

    def convolve(input, offset, weight, bias=None, mask=None):
        dtype = input.dtype
        input, offset, weight, bias, mask = computable(input, offset, weight, bias, mask)
        size = [
            (input.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
            // stride[i]
            + 1
            for i in (0, 1)
        ]
        offset = torch.where(offset.isfinite(), offset, 1e4)
        offset, mask = (t if t is None else first_numbers(t, size) for t in (offset, mask))
        output = deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
        return output.to(dtype)

    return convolve


def first_numbers(tensor: Tensor, size: list) -> Tensor:
    """(B, C, *size) out of the first numbers of each image of a larger tensor (B, C, H, W).

    Raises:
        ValueError: there are too few.
    """
    batch, channels, *given = tensor.shape
    if given == size:
        return tensor
    count = channels * size[0] * size[1]
    if tensor[0].numel() < count:
        raise ValueError(
            f"deformable convolution got offsets or masks of {given[0]}x{given[1]} for an output "
            f"of {size[0]}x{size[1]}; they have to be at least as large"
        )
    return tensor.flatten(1)[:, :count].view(batch, channels, *size)


def assign(targets, values) -> None:
    """Copy each value into its target."""
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def convolution_v1(sizes: dict):
    """The convolution of v1's keywords: dH, dW (the stride), padH, padW, dilationH, dilationW."""
    return convolution(*((sizes[f"{n}H"], sizes[f"{n}W"]) for n in ("d", "pad", "dilation")))


def convolution_v2(sizes: dict):
    """The convolution of v2's keywords: stride_h, stride_w and so on."""
    return convolution(*((sizes[f"{n}_h"], sizes[f"{n}_w"]) for n in ("stride", "pad", "dilation")))


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **sizes
) -> None:
    """Deformable convolution v1 of (B, C, H, W) into ``output``.

    Args:
        weight: (out channels, C / groups, kH, kW).
        offset: (B, 2 kH kW offset groups, out height, out width), rows before columns.
        buffers: of mmcv's own algorithm, without effect here.
        sizes: mmcv's keywords; the numbers of groups follow from the shapes.
    """
    output.copy_(convolution_v1(sizes)(input, offset, weight))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **sizes,
) -> None:
    """Gradients of ``deform_conv_forward`` by the input and by the offsets."""
    convolve = convolution_v1(sizes)
    found = gradients(lambda x, o: convolve(x, o, weight), (input, offset), grad_output)
    assign((grad_input, grad_offset), found)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    *buffers: Tensor,
    scale: float,
    **sizes,
) -> None:
    """Gradient of ``deform_conv_forward`` by the weights, times ``scale``."""
    convolve = convolution_v1(sizes)
    # The convolution is linear in its weights: the gradient is the same at any.
    weight = torch.zeros_like(grad_weight)
    (found,) = gradients(lambda w: convolve(input, offset, w), (weight,), grad_output)
    grad_weight.copy_(found * scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **sizes,
) -> None:
    """Deformable convolution v2: each sample is multiplied by its entry of ``mask``.

    Args:
        bias: (out channels,), read if ``with_bias``.
        mask: (B, kernel_h kernel_w offset groups, out height, out width).
        ones, columns: of mmcv's own algorithm, without effect here.
    """
    bias = bias if with_bias else None
    output.copy_(convolution_v2(sizes)(input, offset, weight, bias, mask))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **sizes,
) -> None:
    """Gradients of ``modulated_deform_conv_forward``."""
    convolve = convolution_v2(sizes)
    found = gradients(
        lambda x, o, w, m: convolve(x, o, w, None, m), (input, offset, weight, mask), grad_output
    )
    assign((grad_input, grad_offset, grad_weight, grad_mask), found)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def attention(shapes: Tensor):
    """mmcv's own deformable attention in PyTorch, for maps of ``shapes`` (levels, 2)."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return lambda value, locations, weights: multi_scale_deformable_attn_pytorch(
        value, shapes, locations, weights
    )


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Deformable attention (B, queries, channels); the arguments are mmcv's."""
    return attention(spatial_shapes)(value, sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of ``ms_deform_attn_forward``."""
    tensors = (value, sampling_locations, attention_weights)
    found = gradients(attention(spatial_shapes), tensors, grad_output)
    assign((grad_value, grad_sampling_loc, grad_attn_weight), found)
