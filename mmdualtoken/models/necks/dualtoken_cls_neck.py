"""The neck between the backbone and a linear classification head."""

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module()
class DualTokenClsNeck(BaseModule):
    """Widen each token, then average: mean over tokens of GELU(LN(Linear(X))) (LightViT's head).

    Args:
        in_channels: channels of the backbone's last map.
        out_channels: width of the vector given to the head.
        init_cfg: MMEngine initialisation config.
    """

    def __init__(self, in_channels: int, out_channels: int = 1280, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self.fc = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels, eps=1e-5)
        self.act = nn.GELU()
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, feats: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        """A tuple whose last map is (B, C, H, W) -> a tuple of one (B, out_channels)."""
        x = feats[-1].flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        return (self.act(self.norm(self.fc(x))).mean(1),)
