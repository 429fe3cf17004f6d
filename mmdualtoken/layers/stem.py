"""The stem: image to the first feature map at stride 8 (LightViT's, which the paper takes over)."""

import torch
from torch import nn


def conv_bn_gelu(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> list:
    """A 3x3 convolution without bias, BatchNorm and GELU, as a list of modules."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.GELU()]


def channels_last_on_cpu(x: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in the memory layout that the CPU's convolutions are fastest with.

    Depthwise convolutions take a fraction of the time, and BatchNorm a third. A GPU keeps what it
    is given: what is fastest there was not measured.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


class Stem(nn.Module):
    """Reduce an image to stride 8: three stride-2 convolutions with depthwise ones in between.

    Args:
        in_channels: channels of the image.
        embed_dims: channels of the output, C. The inner width is C / 2.
    """

    def __init__(self, in_channels: int, embed_dims: int):
        super().__init__()
        mid = embed_dims // 2
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
        x = self.convs(channels_last_on_cpu(x))
        return self.norm(x.permute(0, 2, 3, 1))  # (B, C, H, W) -> (B, H, W, C)
