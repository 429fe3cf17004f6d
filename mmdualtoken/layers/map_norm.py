"""The norm of a map that the backbone gives out."""

import torch
from mmcv.cnn import build_norm_layer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.convnext import LayerNorm2d


class ChannelAffine(nn.Module):
    """Scale and shift per channel: BatchNorm in deployment.

    Args:
        norm: the BatchNorm, with running statistics.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


def map_norm(cfg: dict, channels: int) -> nn.Module:
    """Norm of maps (B, C, H, W).

    Args:
        cfg: as in `mmcv.cnn.build_norm_layer`; type 'LN' (or nn.LayerNorm) is over the channels,
            while mmcv's LN would normalise the last axes.
        channels: C.

    Raises:
        ValueError: 'LN' has other keys than `eps` and `requires_grad`.
        Exception: of any kind, where mmcv knows no such norm, or the norm no such key.
    """
    if cfg["type"] not in ("LN", nn.LayerNorm):
        return build_norm_layer(cfg, channels)[1]
    if unknown := set(cfg) - {"type", "eps", "requires_grad"}:
        raise ValueError(f"LN has no {sorted(unknown)}, only eps and requires_grad")
    norm = LayerNorm2d(channels, eps=cfg.get("eps", 1e-5))  # PyTorch's default of every norm
    return norm.requires_grad_(cfg.get("requires_grad", True))
