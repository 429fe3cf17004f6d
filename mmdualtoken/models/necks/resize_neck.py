"""Resizing one of a backbone's maps, for heads that read a finer one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmdualtoken.models.arguments import Checks

#: The modes of `torch.nn.functional.interpolate` for maps, and their align_corners.
MODES = {"bilinear": False, "bicubic": False, "nearest": None, "nearest-exact": None, "area": None}


@MODELS.register_module()
class ResizeNeck(BaseModule):
    """Resize the map `source` to height and width of the map `target`; the others pass.

    DeepLabv3's and PSPNet's heads expect stride 8, which their usual backbones reach by dilation.
    This neck brings the last map of a backbone that ends at stride 32 to stride 8, without
    parameters.

    Args:
        source: index of the map to resize, the last by default.
        target: index of the map whose size it takes, the first by default.
        mode: as in `torch.nn.functional.interpolate`, for maps.
        init_cfg: MMEngine initialisation config; there is nothing to initialise.

    Raises:
        WrongValue: `mode` is unknown.
        IndexError: in the forward, there is no map `source` or `target`.
    """

    def __init__(
        self,
        source: int = -1,
        target: int = 0,
        mode: str = "bilinear",
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        self.source, self.target, self.mode = source, target, mode
        Checks("ResizeNeck").require(mode in MODES, "mode", mode, f"one of {sorted(MODES)}")

    def forward(self, feats: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) -> the same, `source` at (H_target, W_target)."""
        outs = list(feats)
        size = outs[self.target].shape[2:]
        outs[self.source] = F.interpolate(
            outs[self.source], size, mode=self.mode, align_corners=MODES[self.mode]
        )
        return tuple(outs)
