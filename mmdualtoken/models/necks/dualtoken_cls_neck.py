"""The neck between the backbone and a linear classification head."""

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.errors import WrongValue


@MODELS.register_module()
class DualTokenClsNeck(BaseModule):
    """Widen each token, then average: mean over the tokens of GELU(LN(Linear(X))) (LightViT).

    Args:
        in_channels: channels of the backbone's last map.
        out_channels: width of the vector that the head reads; LightViT has 1280.
        init_cfg: MMEngine initialisation config.

    Raises:
        WrongValue: in the forward, the last map does not have `in_channels` channels.
    """

    def __init__(self, in_channels: int, out_channels: int = 1280, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self.fc = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels, eps=1e-5)
        self.act = nn.GELU()
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, feats: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        """Maps, the last of them (B, C, H, W) -> a tuple of one tensor (B, out_channels)."""
        if feats[-1].shape[1] != self.fc.in_features:
            raise WrongValue(
                f"DualTokenClsNeck: received a last map of {feats[-1].shape[1]} channels, "
                f"in_channels is {self.fc.in_features}; set the neck's in_channels to the "
                "backbone's embed_dims at its last out_indices"
            )
        x = feats[-1].flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        return (self.act(self.norm(self.fc(x))).mean(1),)
