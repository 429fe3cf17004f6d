"""Downsampling of the local features to the token grid (Sec. 2.1, Eq. of step 1; Table 9)."""

import torch
import torch.nn.functional as F
from torch import nn

from .pooling import AvgPool


def resize_map(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear resize of a map to `size` = (h, w), as it is where the size agrees already.

    (B, H, W, C) -> (B, h, w, C); align_corners=False, no antialiasing.
    """
    # A graph for all sizes resizes always: of the same size, values stay.
    if not torch.compiler.is_compiling() and x.shape[1:3] == size:
        return x
    x = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


class StepwiseDownsample(nn.Module):
    """Average pooling 2x2, then `num_convs` times a 3x3 convolution and the pooling again.

    Args:
        embed_dims: channels C.
        num_convs: M of the paper: 1 in stage 1, 0 in stage 2.
    """

    def __init__(self, embed_dims: int, num_convs: int):
        super().__init__()
        self.pool = AvgPool()  # maps of a single row or column survive
        self.convs = nn.ModuleList(
            nn.Conv2d(embed_dims, embed_dims, 3, padding=1) for _ in range(num_convs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2^(M+1)), ceil(W / 2^(M+1)), C)."""
        x = self.pool(x.permute(0, 3, 1, 2))
        for conv in self.convs:
            x = self.pool(conv(x))
        return x.permute(0, 2, 3, 1)


class OneStepDownsample(nn.Identity):
    """Leave the map as it is, so that the resize to the grid does all in one step (Table 9).

    Args:
        embed_dims: not used; here because stepwise downsampling, its alternative, has channels.
        num_convs: not used, likewise.
    """
