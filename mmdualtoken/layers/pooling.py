"""Pooling of 2x2 cells with stride 2, where odd maps keep their last row and column.

In a graph for all sizes (torch.compile, torch.export) odd maps are padded first: the size formula
of torch's own ceil_mode asks whether a size is odd, and the graph would hold for one answer only.
"""

import torch
import torch.nn.functional as F
from torch import nn


def pad_to_even(x: torch.Tensor, value: float) -> torch.Tensor:
    """(..., H, W) -> (..., 2 ceil(H/2), 2 ceil(W/2)), at the bottom and right."""
    h, w = x.shape[-2:]
    rows, columns = (h - 1) // 2 + 1, (w - 1) // 2 + 1
    return F.pad(x, (0, 2 * columns - w, 0, 2 * rows - h), value=value)


class MaxPool(nn.MaxPool2d):
    """Maximum of each cell; what lies outside the map never wins."""

    def __init__(self):
        super().__init__(2, 2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        if not torch.compiler.is_compiling():
            return super().forward(x)
        return F.max_pool2d(pad_to_even(x, float("-inf")), 2, 2)


class AvgPool(nn.AvgPool2d):
    """Mean of each cell, over what lies inside the map."""

    def __init__(self):
        super().__init__(2, 2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        if not torch.compiler.is_compiling():
            return super().forward(x)
        inside = F.avg_pool2d(pad_to_even(x.new_ones(1, 1, *x.shape[2:]), 0.0), 2, 2)
        return F.avg_pool2d(pad_to_even(x, 0.0), 2, 2) / inside
