"""Resizing one of a backbone's maps, for heads that want it finer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmdualtoken.models.arguments import Checks

CHECK = Checks("ResizeNeck")
#: The modes of `torch.nn.functional.interpolate` for maps, and whether they take align_corners.
MODES = {
    "bilinear": True,
    "bicubic": True,
    "nearest": False,
    "nearest-exact": False,
    "area": False,
}


@MODELS.register_module()
class ResizeNeck(BaseModule):
    """Resize the map `source` to height and width of the map `target`; the others pass.

    DeepLabv3's and PSPNet's heads expect stride 8, which their usual backbones reach by dilation.
    A backbone that ends at stride 32 reaches it this way, without parameters.

    Args:
        source: index of the map that is resized, the last by default.
        target: index of the map whose size it gets, the first by default.
        mode: as in `torch.nn.functional.interpolate`, for maps.
        init_cfg: MMEngine initialisation config, unused.

    Raises:
        ValueError: `mode` is unknown, or there is no map `source` or `target` (in the forward).
        TypeError: an argument is of the wrong type.
    """

    def __init__(
        self,
        source: int = -1,
        target: int = 0,
        mode: str = "bilinear",
        init_cfg: dict | None = None,
    ):
        super().__init__(CHECK.init_cfg(init_cfg))
        self.source = CHECK.integer("source", source)
        self.target = CHECK.integer("target", target)
        self.mode = CHECK.choice("mode", mode, MODES)

    def forward(self, feats: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) -> the same, `source` at (H_target, W_target)."""
        outs, count = list(feats), len(feats)
        for argument in ("source", "target"):
            if not -count <= (index := getattr(self, argument)) < count:
                allowed = f"an index of the {count} maps received, {-count} to {count - 1}"
                CHECK.fail(argument, index, allowed)
        size = outs[self.target].shape[2:]
        align = False if MODES[self.mode] else None
        outs[self.source] = F.interpolate(
            outs[self.source], size, mode=self.mode, align_corners=align
        )
        return tuple(outs)
