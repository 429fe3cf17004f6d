"""The norm of a map that the backbone gives out."""

from mmcv.cnn import build_norm_layer
from torch import nn
from torchvision.models.convnext import LayerNorm2d


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
