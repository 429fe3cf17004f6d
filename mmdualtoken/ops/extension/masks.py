"""Operators that weigh or select cells by a mask: CARAFE, PSANet's mask, masked convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import gradients

__all__ = [
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "psamask_backward",
    "psamask_forward",
]


def reassembly(kernel_size: int, group_size: int, scale_factor: int):
    """CARAFE as a function (features (B, C, H, W), masks) -> (B, C, sH, sW)."""

    def reassemble(features: Tensor, masks: Tensor) -> Tensor:
        batch, channels, height, width = features.shape
        grouped = features.view(batch, group_size, -1, height, 1, width, 1)
        padding = kernel_size // 2
        padded = F.pad(features, [padding] * 4)
        size = (height, scale_factor, width, scale_factor)
        masks = masks.view(batch, group_size, kernel_size**2, *size)
        output = 0
        for place in range(kernel_size**2):
            top, left = divmod(place, kernel_size)
            shifted = padded[:, :, top : top + height, left : left + width].reshape(grouped.shape)
            output = output + masks[:, :, None, place] * shifted
        return output.reshape(batch, channels, height * scale_factor, width * scale_factor)

    return reassemble


def carafe_naive_forward(features: Tensor, masks: Tensor, output: Tensor, **sizes) -> None:
    """CARAFE: each cell of the larger map is a weighted sum of a window of the smaller one.

    Args:
        features: (B, C, H, W).
        masks: (B, kernel_size² group_size, scale_factor H, scale_factor W).
        output: (B, C, scale_factor H, scale_factor W).
        sizes: kernel_size; group_size, the number of groups of channels, each with weights of its
            own; scale_factor.
    """
    output.copy_(reassembly(**sizes)(features, masks))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **sizes,
) -> None:
    """Gradients of CARAFE by the features and by the masks."""
    by_features, by_masks = gradients(reassembly(**sizes), (features, masks), grad_output)
    grad_input.copy_(by_features)
    grad_masks.copy_(by_masks)


def carafe_forward(
    features: Tensor, masks: Tensor, rfeatures: Tensor, *buffers: Tensor, **sizes
) -> None:
    """As ``carafe_naive_forward``, into the last of mmcv's buffers; the others are not used.

    ``rfeatures`` receives the features, for the backward pass.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, buffers[-1], **sizes)


def carafe_backward(
    grad_output: Tensor, rfeatures: Tensor, masks: Tensor, *buffers: Tensor, **sizes
) -> None:
    """As ``carafe_naive_backward``, into the last two of mmcv's buffers."""
    carafe_naive_backward(grad_output, rfeatures, masks, *buffers[-2:], **sizes)


def psa_attention(psa_type: int, h_mask: int, w_mask: int, half_h_mask: int, half_w_mask: int, **_):
    """PSANet's mask as a function (B, mask cells, H, W) -> (B, H W, H, W)."""

    def attend(input: Tensor) -> Tensor:
        batch, _, height, width = input.shape
        y, x = (torch.arange(n, device=input.device) for n in (height, width))
        # Row of the mask that a place h has for a place y; columns likewise.
        rows = y[:, None] - y + half_h_mask
        columns = x[:, None] - x + half_w_mask
        inside = ((rows >= 0) & (rows < h_mask))[:, :, None, None]
        inside = inside & ((columns >= 0) & (columns < w_mask))
        rows, columns = rows.clamp(0, h_mask - 1), columns.clamp(0, w_mask - 1)
        masks = input.view(batch, h_mask, w_mask, height, width)
        # (B, y, h, x, w): the weight that a place (h, w) gives to a place (y, x)
        weights = masks[:, rows[:, :, None, None], columns, y[:, None, None], x] * inside
        order = (0, 1, 3, 2, 4) if psa_type == 0 else (0, 2, 4, 1, 3)
        return weights.permute(order).reshape(batch, height * width, height, width)

    return attend


def psamask_forward(input: Tensor, output: Tensor, **sizes) -> None:
    """Spreads each place's mask over the map.

    Args:
        input: (B, h_mask w_mask, H, W).
        output: (B, H W, H, W).
        sizes: mmcv's keywords; psa_type 0 collects, ``output[:, target, source]``, 1 distributes,
            ``output[:, source, target]``.
    """
    output.copy_(psa_attention(**sizes)(input))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, **sizes) -> None:
    """Gradient of ``psamask_forward``, which is linear, by its input."""
    inputs = (torch.zeros_like(grad_input),)
    grad_input.copy_(gradients(psa_attention(**sizes), inputs, grad_output)[0])


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """The windows around M places as columns.

    Args:
        features: (1, C, H, W).
        mask_h_idx: (M,), rows of the places; ``mask_w_idx`` their columns.
        data_col: (C kernel_h kernel_w, M), receives the windows.
    """
    windows = F.unfold(features, (kernel_h, kernel_w), padding=(pad_h, pad_w))[0]
    width = features.shape[3] + 2 * pad_w - kernel_w + 1
    data_col.copy_(windows[:, mask_h_idx * width + mask_w_idx])


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **sizes
) -> None:
    """Writes columns (channels, M) to their places of ``im`` (1, channels, height, width)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
