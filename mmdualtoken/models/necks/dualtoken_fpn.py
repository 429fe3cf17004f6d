"""FPN that adds a stride-4 level to a backbone whose finest map is at stride 8."""

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.errors import WrongValue


@MODELS.register_module()
class DualTokenFPN(FPN):
    """FPN on strides 8, 16, 32 with a transposed convolution for stride 4 (LightViT).

    ::

        C5 (32) - 1x1 - P5 ------------------ 3x3 -> out 3 - max-pool s2 -> out 4
                        | x2
        C4 (16) - 1x1 - + - P4 -------------- 3x3 -> out 2
                            | x2
        C3 (8)  - 1x1 ----- + - P3 ---------- 3x3 -> out 1
                                | 2x2 transposed, s2
                                +------------ 3x3 -> out 0 (stride 4)

    Args:
        in_channels: channels of the backbone's maps, finest first.
        out_channels: channels of every output.
        num_outs: number of returned levels, at least `len(in_channels) + 1`. Stride-2 max-pooling
            of the coarsest makes the levels past that.
        norm_cfg: norm of the convolutions, none by default.
        act_cfg: activation of the convolutions, none by default.
        init_cfg: MMEngine initialisation config; Xavier for convolutions by default.

    Raises:
        WrongValue: `num_outs` is too small, or, in the forward, the maps do not have `in_channels`
            channels.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int = 256,
        num_outs: int = 5,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list | None = None,
    ):
        count = len(in_channels)
        if num_outs <= count:
            raise WrongValue(
                f"DualTokenFPN: num_outs={num_outs} is too small: {count} maps and the added "
                f"stride-4 level need num_outs >= {count + 1}"
            )
        layers = ("Conv2d", "ConvTranspose2d")
        super().__init__(
            list(in_channels),
            out_channels,
            num_outs - 1,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            init_cfg=init_cfg
            or [dict(type="Xavier", layer=layer, distribution="uniform") for layer in layers],
        )
        # In a container: a ConvModule that is a direct child would later initialise itself and
        # overwrite the weights of init_cfg.
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2),
            ConvModule(
                out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=act_cfg
            ),
        )

    def _check(self, feats: tuple[torch.Tensor, ...]) -> None:
        """Refuse maps of other channels than `in_channels`."""
        received = [f.shape[1] for f in feats]
        if received != self.in_channels:
            remedy = "set the neck's in_channels to the backbone's embed_dims at its out_indices"
            if received[1:] == self.in_channels:
                remedy = (
                    "the first seems to be DualTokenViTStride4's map at stride 4, which this neck "
                    "would upsample to stride 2: use MMDetection's FPN, type='FPN', as "
                    "configs/mmdet/maskrcnn_dualtoken_s_stride4_1x.py does"
                )
            raise WrongValue(
                f"DualTokenFPN: received maps of {received} channels, in_channels is "
                f"{self.in_channels}; {remedy}"
            )

    def forward(self, feats: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Maps (B, C_i, H_i, W_i), finest first -> `num_outs` maps (B, out_channels, h, w)."""
        self._check(feats)
        maps = [conv(f) for conv, f in zip(self.lateral_convs, feats, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            size = maps[i - 1].shape[2:]
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=size, mode="nearest")
        outs = [self.finest(maps[0])]
        outs += [conv(m) for conv, m in zip(self.fpn_convs, maps, strict=True)]
        while len(outs) < self.num_outs + 1:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
