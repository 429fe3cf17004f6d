"""An initialisation of the stem that keeps contrast, for training from scratch; not the paper's."""

import torch
from mmengine.model import BaseInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdualtoken.models.arguments import Checks
from mmdualtoken.models.stem import Stem


@WEIGHT_INITIALIZERS.register_module(name="StemContrast")
class StemContrastInit(BaseInit):
    """Start the stem so that its output keeps the brightness and colour of each position.

    torch's initialisation loses most of both. A random depthwise kernel passes brightness no
    better than noise. Where its weights cancel, BatchNorm brings the remaining fine structure to
    unit variance. BatchNorm also removes the mean, so that LayerNorm divides each position by
    little else than its own contrast: a dark and a pale blob leave the stem almost the same.

    This initialiser makes every second channel of the depthwise convolutions an average over 3x3
    pixels, plus `noise` times its random kernel. It draws the bias of the last convolution from
    N(0, bias_std): added to a constant vector of that length, contrast survives LayerNorm. All
    other channels and layers start as without it; no layer is added, and checkpoints fit.

    Use: dict(type='DualTokenViT', ..., init_cfg=dict(type='StemContrast')). In a list it comes
    after the initialisers of whole layers; a checkpoint ('Pretrained') replaces its weights. It
    does not change modules without a `Stem`.

    Args:
        noise: part of the random kernel that an averaging channel keeps.
        bias_std: standard deviation of the last convolution's bias.

    Raises:
        WrongValue: `noise` or `bias_std` is negative, infinite or no number.
    """

    def __init__(self, noise: float = 0.3, bias_std: float = 1.0):
        super().__init__()
        for name, value in (("noise", noise), ("bias_std", bias_std)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            fine = number and 0 <= value < float("inf")
            Checks("StemContrast").require(
                fine, name, value, "a number from 0; leave it out for the default"
            )
        self.noise, self.bias_std = noise, bias_std

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Change the stems within `module` in place."""
        for stem in (m for m in module.modules() if isinstance(m, Stem)):
            convs = [m for m in stem.convs if isinstance(m, nn.Conv2d)]
            for conv in convs:
                if conv.groups > 1:
                    averaging = conv.weight[::2]
                    averaging.mul_(self.noise).add_(1 / averaging[0].numel())
            nn.init.normal_(convs[-1].bias, std=self.bias_std)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: noise={self.noise}, bias_std={self.bias_std}"
