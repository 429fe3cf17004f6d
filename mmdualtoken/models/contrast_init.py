"""An initialisation of the stem that keeps contrast, for training from scratch; not the paper's."""

import torch
from mmengine.model import BaseInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdualtoken.errors import WrongValue
from mmdualtoken.models.stem import Stem


@WEIGHT_INITIALIZERS.register_module(name="StemContrast")
class StemContrastInit(BaseInit):
    """Start the stem so that the norm at its end leaves how bright and how coloured a place is.

    By torch's initialisation most of that is lost. A random depthwise kernel passes brightness no
    better than noise; where its weights cancel, BatchNorm brings the fine structure that is left to
    unit variance. And as BatchNorm takes off the mean, LayerNorm divides each position by little
    else than its own contrast: a dark blob and a pale one leave the stem much alike.

    Here every second channel of the depthwise convolutions starts as an average over 3x3 pixels,
    disturbed by `noise` of its random kernel, and the bias of the last convolution is drawn from
    N(0, bias_std): beside a constant vector of that length LayerNorm changes little. All other
    channels and layers start as ever; no layer is added, and checkpoints fit as before.

    Use: dict(type='DualTokenViT', ..., init_cfg=dict(type='StemContrast')). In a list it stands
    after initialisers of whole layers, which it changes; a checkpoint ('Pretrained') replaces it.
    Modules without a `Stem` are left as they are.

    Args:
        noise: part of the random kernel that an averaging channel keeps.
        bias_std: deviation of the last convolution's bias; 0 leaves none.

    Raises:
        ValueError: `noise` or `bias_std` is negative or no number.
    """

    def __init__(self, noise: float = 0.3, bias_std: float = 1.0):
        super().__init__()
        for name, value in (("noise", noise), ("bias_std", bias_std)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < float("inf"):
                raise WrongValue(
                    f"StemContrast: {name}={value!r}; allowed is a number from 0 on. Leave it out "
                    "for the default."
                )
        self.noise, self.bias_std = noise, bias_std

    def __call__(self, module: nn.Module) -> None:
        """Change the stems within `module` in place."""
        for stem in (m for m in module.modules() if isinstance(m, Stem)):
            self._start(stem)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())

    @torch.no_grad()
    def _start(self, stem: Stem) -> None:
        convs = [m for m in stem.convs if isinstance(m, nn.Conv2d)]
        for conv in convs:
            if conv.groups > 1:
                averaging = conv.weight[::2]
                averaging.mul_(self.noise).add_(1 / averaging[0].numel())
        nn.init.normal_(convs[-1].bias, std=self.bias_std)

    def _get_init_info(self) -> str:
        return f"{type(self).__name__}: noise={self.noise}, bias_std={self.bias_std}"
