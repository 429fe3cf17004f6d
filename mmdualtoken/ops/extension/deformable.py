"""Deformable convolution (v1 and, with a mask, v2) and deformable attention."""

import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from .gradients import gradients
from .precision import computable


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


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution v1 of (B, C, H, W) into ``output``.

    Args:
        weight: (out channels, C / group, kH, kW); ``group`` follows from it.
        offset: (B, 2 kH kW deformable_group, out height, out width), rows before columns.
        columns, ones, im2col_step: of mmcv's own algorithm, without effect here.
    """
    convolve = convolution((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(convolve(input, offset, weight))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradients of ``deform_conv_forward`` by the input and by the offsets."""
    convolve = convolution((dH, dW), (padH, padW), (dilationH, dilationW))
    found = gradients(lambda x, o: convolve(x, o, weight), (input, offset), grad_output)
    assign((grad_input, grad_offset), found)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of ``deform_conv_forward`` by the weights, times ``scale``."""
    convolve = convolution((dH, dW), (padH, padW), (dilationH, dilationW))
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
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Deformable convolution v2: each sample is multiplied by its entry of ``mask``.

    Args:
        bias: (out channels,), read if ``with_bias``.
        mask: (B, kernel_h kernel_w deformable_group, out height, out width).
        weight, offset, columns, ones: as in ``deform_conv_forward``.
    """
    convolve = convolution((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    output.copy_(convolve(input, offset, weight, bias if with_bias else None, mask))


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
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of ``modulated_deform_conv_forward``."""
    convolve = convolution((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
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
