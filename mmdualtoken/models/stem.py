"""Layers that change the resolution: the stem, merging between stages, reduction to the token grid.

The stem and the pools take maps (B, C, H, W); all other layers take image tokens (B, H, W, C). Any
size works: sizes are divided by rounding up, and what lies outside a map never counts. A graph for
all sizes (`torch.compile`, export) has no branch on a size, so that it always pads and resizes.
"""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import nn

from mmdualtoken.models.blocks import chunk_over_images, records_graph

# --- image to stride 8, and to stride 4


class Stem(nn.Module):
    """Stem (LightViT): three stride-2 convolutions with depthwise ones in between, to stride 8.

    Args:
        in_channels: channels of the image.
        embed_dims: channels of the output, C. The inner width is C / 2.
    """

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        mid = embed_dims // 2
        self.width = mid // 4  # per pixel of the image: C / 2 channels at half the resolution
        self.convs = nn.Sequential(
            *conv_bn_gelu(in_channels, mid, stride=2),  # H/2 W/2
            *conv_bn_gelu(mid, mid, groups=mid),
            *conv_bn_gelu(mid, mid, groups=mid),
            *conv_bn_gelu(mid, mid, stride=2, groups=mid),  # H/4 W/4
            nn.Conv2d(mid, embed_dims, 3, 2, 1),  # H/8 W/8
        )
        self.norm = nn.LayerNorm(embed_dims, eps=1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, ceil(H/8), ceil(W/8), C)."""
        x = self.run(self.convs, x)
        return self.norm(x.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, C)

    def run(self, convs: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        """Apply convolutions to images (B, 3, H, W), in chunks except in training.

        In training, BatchNorm computes its statistics over all images.
        """
        if x.device.type == "cpu":
            # The CPU's depthwise convolutions take a fraction of the time in this layout, and
            # BatchNorm a third. On GPUs the fastest layout was not measured.
            x = channels_last(x)
        return convs(x) if self.training else chunk_over_images(convs, x, self.width)


class StemWithStride4(Stem):
    """The stem, with its map at stride 4 as a first output; parameters and names are the stem's."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> (B, C / 2, ceil(H/4), ceil(W/4)), (B, ceil(H/8), ceil(W/8), C)."""
        stride4 = self.run(self.convs[:-1], x)
        return stride4, self.norm(self.convs[-1](stride4).permute(0, 2, 3, 1))


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return the same map (B, C, H, W) with its channels last in memory."""
    if records_graph():
        return x.contiguous(memory_format=torch.channels_last)
    # The same by two permutations: torch.func.vmap has no other layout than the default one.
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def conv_bn_gelu(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> list:
    """Return a 3x3 convolution without bias, BatchNorm and GELU, as a list of modules."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.GELU()]


# mmdet and mmpretrain have one each; the backbone has to work where only one toolbox is installed.
class InvertedResidual(nn.Module):
    """MobileNetV2's block at stride 1, with GELU: Z + PW2(GELU(DW(GELU(PW1(Z))))).

    Each convolution is without bias and followed by BatchNorm. The sum is left out where the
    widths differ.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        mid_channels: channels in between.
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int):
        super().__init__()
        norm, act = dict(type="BN"), dict(type="GELU")
        self.residual = in_channels == out_channels
        self.expand = ConvModule(in_channels, mid_channels, 1, norm_cfg=norm, act_cfg=act)
        self.depthwise = ConvModule(
            mid_channels,
            mid_channels,
            3,
            padding=1,
            groups=mid_channels,
            norm_cfg=norm,
            act_cfg=act,
        )
        self.project = ConvModule(mid_channels, out_channels, 1, norm_cfg=norm, act_cfg=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


def stride4_branch(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """Return inverted residuals (B, C, H, W) -> (B, C', H, W) with 2 C' channels inside.

    With `blocks` = 0 it is the identity, and the map keeps its C channels.
    """
    widths = [in_channels, *[out_channels] * blocks]
    return nn.Sequential(
        *(
            InvertedResidual(before, after, 2 * out_channels)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
    )


# --- from stage to stage


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


def space_to_depth(x: torch.Tensor) -> torch.Tensor:
    """Gather each 2x2 cell into the channels: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 4C).

    Odd sizes are padded with zeros at the bottom and right; even ones are never padded.
    The channel order is (row, column, channel).
    """
    b, h, w, c = x.shape
    # Written as the max-pool computes its size: a graph for all sizes then has one expression.
    rows, columns = (h - 1) // 2 + 1, (w - 1) // 2 + 1
    if records_graph() or h % 2 or w % 2:
        x = F.pad(x, (0, 0, 0, 2 * columns - w, 0, 2 * rows - h))
    x = x.reshape(b, rows, 2, columns, 2, c)
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3)


# --- to the grid of global tokens


class StepwiseDownsample(nn.Module):
    """X_ds: average pooling 2x2, then `num_convs` times a 3x3 convolution and the pooling again.

    Args:
        embed_dims: channels C.
        num_convs: M of the paper: 1 in stage 1, 0 in stage 2.
    """

    def __init__(self, embed_dims: int, num_convs: int):
        super().__init__()
        self.pool = AvgPool()
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
    """Keep the map, so that the resize to the grid reduces it in one step (Table 9)."""

    @classmethod
    def for_block(cls, embed_dims: int, num_convs: int) -> "OneStepDownsample":
        """Build it from the settings of a block; it has no layers."""
        return cls()


def resize_map(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a map bilinearly to `size` = (h, w); return it unchanged where it has that size.

    (B, H, W, C) -> (B, h, w, C); align_corners=False, no antialiasing.
    """
    # To the same size, interpolation keeps the values: a graph for all sizes may always resize.
    if not records_graph() and x.shape[1:3] == size:
        return x
    x = F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


# --- pools of 2x2 cells; at an odd border a cell has fewer pixels


class MaxPool(nn.MaxPool2d):
    """Maximum of each cell, over the pixels inside the map."""

    def __init__(self):
        super().__init__(2, 2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        if not records_graph():
            return super().forward(x)
        return F.max_pool2d(pad_to_even(x, float("-inf")), 2, 2)


class AvgPool(nn.AvgPool2d):
    """Mean of each cell, over the pixels inside the map."""

    def __init__(self):
        super().__init__(2, 2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2))."""
        if not records_graph():
            return super().forward(x)
        inside = F.avg_pool2d(pad_to_even(x.new_ones(1, 1, *x.shape[2:]), 0.0), 2, 2)
        return F.avg_pool2d(pad_to_even(x, 0.0), 2, 2) / inside


def pad_to_even(x: torch.Tensor, value: float) -> torch.Tensor:
    """(..., H, W) -> (..., 2 ceil(H/2), 2 ceil(W/2)), padded at the bottom and right."""
    h, w = x.shape[-2:]
    rows, columns = (h - 1) // 2 + 1, (w - 1) // 2 + 1
    return F.pad(x, (0, 2 * columns - w, 0, 2 * rows - h), value=value)
