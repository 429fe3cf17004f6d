"""Resizing one of a backbone's maps, for heads that want it finer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS


@MODELS.register_module()
class ResizeNeck(BaseModule):
    """Resize the map `source` to height and width of the map `target`; the others pass.

    DeepLabv3's and PSPNet's heads expect stride 8, which their usual backbones reach by dilation.
    A backbone that ends at stride 32 reaches it this way, without parameters.

    Args:
        source: index of the map that is resized, the last by default.
        target: index of the map whose size it gets, the first by default.
        mode: as in `torch.nn.functional.interpolate`.
        init_cfg: MMEngine initialisation config, unused.
    """

    def __init__(
        self,
        source: int = -1,
        target: int = 0,
        mode: str = "bilinear",
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.source = source
        self.target = target
        self.mode = mode

    def forward(self, feats: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) -> the same, `source` at (H_target, W_target)."""
        outs = list(feats)
        size = feats[self.target].shape[2:]
        align = None if self.mode in ("nearest", "area", "nearest-exact") else False
        outs[self.source] = F.interpolate(
            outs[self.source], size, mode=self.mode, align_corners=align
        )
        return tuple(outs)
