"""A map finer than those of the stages, for objects of a few pixels; not in the paper."""

import torch
from mmcv.cnn import ConvModule
from torch import nn

from .pieces import by_images
from .stem import Stem, channels_last_on_cpu


class StemWithFineMap(Stem):
    """The stem, with the map before its last convolution; parameters and names are the stem's."""

    def until_stride4(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, C / 2, ceil(H/4), ceil(W/4))."""
        for module in list(self.convs)[:-1]:
            x = module(x)
        return x

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 3, H, W) -> (B, C / 2, ceil(H/4), ceil(W/4)), (B, ceil(H/8), ceil(W/8), C)."""
        x = channels_last_on_cpu(x)
        # In training, BatchNorm takes its statistics over all images.
        if self.training:
            fine = self.until_stride4(x)
        else:
            fine = by_images(self.until_stride4, x, self.width)
        return fine, self.norm(self.convs[-1](fine).permute(0, 2, 3, 1))


# mmdet and mmpretrain have one each; the backbone has to work where only one toolbox is installed.
class InvertedResidual(nn.Module):
    """MobileNetV2's block at stride 1, with GELU: Z + PW2(GELU(DW(GELU(PW1(Z))))).

    Each convolution is without bias and followed by BatchNorm. Without the sum where the widths
    differ.

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


def fine_map(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """Inverted residuals that make (B, C', H, W) of (B, C, H, W), 2 C' channels wide inside.

    Without blocks the map stays as it is, with its C channels.
    """
    widths = [in_channels, *[out_channels] * blocks]
    return nn.Sequential(
        *(
            InvertedResidual(before, after, 2 * out_channels)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
    )
