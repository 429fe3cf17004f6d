"""Alternatives to what the design chose, by names that a row's config gives; imported by it.

They are here to be measured. What evidence on two tasks speaks for becomes an option of the
package; the paper's choice stays the default.
"""

import torch.nn.functional as F
from mmdet.models.backbones import PyramidVisionTransformerV2
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.models import dualtoken_vit
from mmdualtoken.models.blocks import ConvEncoder
from mmdualtoken.models.stem import resize_map
from mmdualtoken.models.tokens import PositionAwareTokens


class AreaTokens(PositionAwareTokens):
    """X_ds at the token grid by the mean over each cell's area, in place of bilinear resizing."""

    def gather(self, x_local):
        """(B, H, W, C) -> (B, h*w, C)."""
        x_ds = self.downsample(x_local).permute(0, 3, 1, 2)
        x_ds = F.adaptive_avg_pool2d(x_ds, self.token_size)
        return self.aggregate(x_ds.flatten(2).transpose(1, 2))


class NormedTokens(PositionAwareTokens):
    """X_ga = MHSA(LN(X_ds)): what is aggregated is normalised, as is all other attention's input.

    In the design it is X_local, whose part from the Conv Encoder may grow without a bound.
    """

    def __init__(self, embed_dims, *args):
        super().__init__(embed_dims, *args)
        self.norm_ds = nn.LayerNorm(embed_dims, eps=1e-6)

    def gather(self, x_local):
        """(B, H, W, C) -> (B, h*w, C)."""
        x_ds = resize_map(self.downsample(x_local), self.token_size).flatten(1, 2)
        return self.aggregate(self.norm_ds(x_ds))


class _ScaledConvEncoder(ConvEncoder):
    """A Conv Encoder that starts with a part in the sum."""

    scale: float

    def __init__(self, embed_dims: int, kernel_size: int):
        super().__init__(embed_dims, kernel_size, layer_scale_init_value=self.scale)


class ConvEncoderTenth(_ScaledConvEncoder):
    """Layer scale 0.1 at the start."""

    scale = 0.1


class ConvEncoderOne(_ScaledConvEncoder):
    """Layer scale 1 at the start."""

    scale = 1.0


dualtoken_vit.TOKEN_MODULES["area"] = AreaTokens
dualtoken_vit.TOKEN_MODULES["norm_ds"] = NormedTokens
dualtoken_vit.LOCAL_ENCODERS["conv_0.1"] = ConvEncoderTenth
dualtoken_vit.LOCAL_ENCODERS["conv_1"] = ConvEncoderOne


@MODELS.register_module(force=True)
class PVTv2ForClassification(PyramidVisionTransformerV2):
    """MMDetection's PVTv2 with its last map in a tuple, as MMPretrain's necks expect."""

    def forward(self, x):
        """(B, 3, H, W) -> ((B, C, H/32, W/32),)."""
        return (super().forward(x)[-1],)
