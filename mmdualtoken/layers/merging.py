"""Patch merging between stages (LightViT's), for image tokens and for global tokens."""

import torch
import torch.nn.functional as F
from torch import nn

from .pooling import MaxPool


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """Gather each 2x2 cell into the channels: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 4C).

    Odd sizes are padded with zeros at the bottom and right; even ones are never padded.
    The channel order is (row, column, channel).
    """
    b, h, w, c = x.shape
    # Written as the max-pool computes its size: a graph for all sizes then has one expression.
    rows, columns = (h - 1) // 2 + 1, (w - 1) // 2 + 1
    if torch.compiler.is_compiling() or h % 2 or w % 2:  # a graph for all sizes pads always
        x = F.pad(x, (0, 0, 0, 2 * columns - w, 0, 2 * rows - h))
    x = x.reshape(b, rows, 2, columns, 2, c)
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3)


class PatchMerging(nn.Module):
    """Halve the resolution: X' = Linear(LN(space-to-depth(X))) + Linear(MaxPool 2x2 (X)).

    Args:
        in_channels: channels C of the stage before.
        out_channels: channels C' of the stage after.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels, eps=1e-5)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)
        self.pool = MaxPool()
        self.pool_proj = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), C')."""
        pooled = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.reduction(self.norm(space_to_depth(x))) + self.pool_proj(pooled)


class TokenProjection(nn.Module):
    """Bring the global tokens to the next stage's width: G <- Linear(LN(G)).

    Args:
        in_channels: channels C of the stage before.
        out_channels: channels C' of the stage after.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(in_channels, eps=1e-5)
        self.proj = nn.Linear(in_channels, out_channels, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C) -> (B, n, C')."""
        return self.proj(self.norm(tokens))
