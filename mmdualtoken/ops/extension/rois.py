"""Pooling of regions: RoIAlign by torchvision or, for maxima, in plain PyTorch; RoIPool.

RoIs are (R, 5): the index of the image, then x1, y1, x2, y2 in pixels of the image.
"""

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .precision import computable

__all__ = ["roi_align_backward", "roi_align_forward", "roi_pool_backward", "roi_pool_forward"]


def outside_if_not_finite(rois: Tensor) -> Tensor:
    """RoIs with NaN or infinite corners moved outside of every map, where they pool zeros.

    torchvision's kernels would read memory that is not the map's. A training that diverged then
    goes on to its NaN loss.
    """
    corners = rois[:, 1:]
    finite = corners.isfinite().all(1, keepdim=True)
    return torch.cat([rois[:, :1], torch.where(finite, corners, -1e4)], 1)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of a map (B, C, H, W) into ``output`` (R, C, aligned_height, aligned_width).

    Args:
        argmax_y: (R, C, aligned_height, aligned_width) with ``pool_mode`` 0: receives the row, in
            cells of the map, of the sample that is the maximum.
        argmax_x: its column.
        spatial_scale: cells of the map per pixel.
        sampling_ratio: samples per bin and side; 0 takes as many as there are cells in a bin.
        pool_mode: 0 takes the maximum of a bin's samples, 1 their mean.
        aligned: half a cell is subtracted from the coordinates.
    """
    size = (aligned_height, aligned_width)
    input, rois = computable(input, outside_if_not_finite(rois))
    if pool_mode == 0:
        maxima = roi_align_maxima(input, rois, size, spatial_scale, sampling_ratio, aligned)
        for target, values in zip((output, argmax_y, argmax_x), maxima, strict=True):
            target.copy_(values)
        return
    output.copy_(roi_align(input, rois, size, spatial_scale, sampling_ratio or -1, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    pool_mode: int,
    sampling_ratio: int,
    aligned: bool,
    spatial_scale: float,
    **size: int,
) -> None:
    """Gradient of ``roi_align_forward`` by the map, into ``grad_input`` (B, C, H, W)."""
    if pool_mode == 0:
        height, width = grad_input.shape[2:]
        values = grad_output * (argmax_y != -1)
        for cells, weights in bilinear_corners(argmax_y, argmax_x, height, width):
            add_to_cells(grad_input, rois, cells, values * weights)
        return
    # Not in float16 even where there is a kernel: gradients of many RoIs add up in one cell.
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    gradient = torch.ops.torchvision._roi_align_backward(
        grad_output.to(dtype),
        outside_if_not_finite(rois).to(dtype),
        spatial_scale,
        *grad_output.shape[2:],
        *grad_input.shape,
        sampling_ratio or -1,
        aligned,
    )
    grad_input.copy_(gradient)


def add_to_cells(grad_input: Tensor, rois: Tensor, cells: Tensor, values: Tensor) -> None:
    """Add values (R, C, bins) of the RoIs' bins to the cells that they came from, in place.

    `grad_input` (B, C, H, W) is contiguous, as mmcv allocates it; `cells`, of the shape of the
    values, are indices in the flattened map.
    """
    images = rois[:, 0].long().view(-1, 1, 1, 1)
    channels = torch.arange(grad_input.shape[1], device=rois.device).view(1, -1, 1, 1)
    grad_input.flatten(2).index_put_((images, channels, cells), values, accumulate=True)


def bilinear_corners(y: Tensor, x: Tensor, height: int, width: int) -> list:
    """The four cells around each place and their weights, as RoIAlign samples a map.

    ``y`` are rows, ``x`` columns, in cells. Returns four pairs (index of the cell in the flattened
    map, weight). All weights of a place more than one cell outside the map are 0.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    down, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    dy, dx = y - top, x - left
    return [
        ((row * width + column).long(), share * inside)
        for row, column, share in (
            (top, left, (1 - dy) * (1 - dx)),
            (top, right, (1 - dy) * dx),
            (down, left, dy * (1 - dx)),
            (down, right, dy * dx),
        )
    ]


def roi_align_maxima(
    input: Tensor,
    rois: Tensor,
    size: tuple,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple:
    """RoIAlign by maximum: maxima, and the rows and columns where they lie, each (R, C, *size)."""
    channels, (height, width) = input.shape[1], input.shape[2:]
    results = [(input.new_zeros(0, channels, *size),) * 3]
    flat = input.flatten(2)
    for roi in rois:
        low, high = (roi[1:] * spatial_scale - 0.5 * aligned).view(2, 2).flip(1)
        extent = (high - low).clamp(min=0 if aligned else 1)
        places = []
        for axis in (0, 1):
            bins = size[axis]
            count = sampling_ratio if sampling_ratio > 0 else int((extent[axis] / bins).ceil())
            step = extent[axis] / bins
            starts = low[axis] + torch.arange(bins, device=roi.device) * step
            within = (torch.arange(count, device=roi.device) + 0.5) * step / max(count, 1)
            places.append(starts[:, None] + within)  # (bins, count)
        rows, columns = len(places[0][0]), len(places[1][0])
        if rows * columns == 0:  # a box without extent has no samples: mmcv's starting values
            results.append(tuple(input.new_full((1, channels, *size), v) for v in (-1e4, -1, -1)))
            continue
        shape = (size[0], size[1], rows, columns)
        y = places[0][:, None, :, None].expand(shape).flatten(2)
        x = places[1][None, :, None, :].expand(shape).flatten(2)
        corners = bilinear_corners(y, x, height, width)
        values = sum(flat[int(roi[0])][:, cells] * weights for cells, weights in corners)
        maximum, best = values.max(-1)  # (C, *size)
        rows, columns = (v.expand(values.shape).gather(-1, best[..., None])[..., 0] for v in (y, x))
        results.append((maximum[None], rows[None], columns[None]))
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum over each bin of a box, into ``output`` (R, C, pooled_height, pooled_width).

    mmcv's bins lie between unrounded corners, (x2 + 1, y2 + 1) being the far one; torchvision's
    ``roi_pool`` rounds the corners first, hence plain PyTorch here.

    Args:
        argmax: int32, of the shape of ``output``: receives the index of the maximum in the
            flattened map, -1 for an empty bin.
    """
    output.zero_()
    argmax.fill_(-1)
    rois = outside_if_not_finite(rois)
    height, width = input.shape[2:]
    for index, roi in enumerate(rois):
        low = (roi[1:3] * spatial_scale).flip(0)
        extent = ((roi[3:] + 1) * spatial_scale).flip(0) - low
        if (extent <= 0).any():
            continue
        edges = []
        for axis, (bins, length) in enumerate(((pooled_height, height), (pooled_width, width))):
            step, places = extent[axis] / bins, torch.arange(bins, device=roi.device)
            starts = (places * step + low[axis]).floor().clamp(0, length).int().tolist()
            ends = ((places + 1) * step + low[axis]).ceil().clamp(0, length).int().tolist()
            edges.append(list(zip(starts, ends, strict=True)))
        for row, (top, down) in enumerate(edges[0]):
            for column, (left, right) in enumerate(edges[1]):
                if down <= top or right <= left:
                    continue
                bins = input[int(roi[0]), :, top:down, left:right].flatten(1)
                values, best = bins.max(1)
                output[index, :, row, column] = values
                cells = (top + best // (right - left)) * width + left + best % (right - left)
                argmax[index, :, row, column] = cells.int()


def roi_pool_backward(
    grad_output: Tensor, rois: Tensor, argmax: Tensor, grad_input: Tensor, **sizes
) -> None:
    """Gradient of ``roi_pool_forward`` by the map, into ``grad_input`` (B, C, H, W)."""
    add_to_cells(grad_input, rois, argmax.long().clamp(min=0), grad_output * (argmax >= 0))
