"""DualToken-ViT with a map at stride 4, for objects of a few pixels; not in the paper."""

import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS

from mmdualtoken.models.arguments import check_fine_blocks
from mmdualtoken.models.deploy import fuse_conv_module
from mmdualtoken.models.dualtoken_vit import DualTokenViT
from mmdualtoken.models.stem import StemWithFineMap, fine_map


@MODELS.register_module()
class DualTokenViTStride4(DualTokenViT):
    """DualTokenViT that gives out a map at stride 4 before those of its stages.

    The design's finest map is at stride 8, and its FPN (`DualTokenFPN`) upsamples that to stride 4.
    Here the stem's map at stride 4, which the design computes anyway, goes through a few inverted
    residuals and out, for an FPN that begins there, MMDetection's own; in_channels for `small`:
    dict(type='FPN', in_channels=[64, 64, 128, 256], out_channels=256, num_outs=5).

    Starts by init_cfg 'Pretrained' from a classifier with DualTokenViT, all but the added blocks.
    `out_norm_cfg`, `frozen_stages` and `norm_eval` do not concern these: their own BatchNorm is
    the norm of this map (SyncBN: `sync_bn = "torch"` in the config makes it of all BatchNorms).

    Args:
        fine_blocks: inverted residuals on the map at stride 4. From 1 on it has embed_dims[0]
            channels; 0 gives out the stem's as it is, of embed_dims[0] / 2: in_channels
            [32, 64, 128, 256] for `small`.
        kwargs: DualTokenViT's. `out_indices` are those of the stages' maps; the one at stride 4 is
            not counted there, always given out, and the first.

    Raises:
        ValueError: an argument is out of range or unknown; the message says what is allowed.
        TypeError: an argument is of the wrong type.
    """

    stem_class = StemWithFineMap

    def __init__(self, *args, fine_blocks: int = 2, **kwargs):
        super().__init__(*args, **kwargs)
        width = self.arch["embed_dims"][0]
        self.fine = fine_map(width // 2, width, check_fine_blocks(fine_blocks))

    def get_layer_depth(self, param_name: str, prefix: str = "backbone.") -> tuple[int, int]:
        """As DualTokenViT's; the added blocks are of the last layer, as the output norms are."""
        depth, layers = super().get_layer_depth(param_name, prefix)
        return layers - 1 if param_name.startswith(f"{prefix}fine.") else depth, layers

    def switch_to_deploy(self) -> None:
        """As DualTokenViT's; BatchNorm of the added blocks goes into their convolutions, too."""
        super().switch_to_deploy()
        for module in self.fine.modules():
            if isinstance(module, ConvModule):
                fuse_conv_module(module)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) -> (B, C_1, ceil(H/4), ceil(W/4)), and the maps of `out_indices`."""
        fine, x = self.stem(x)
        # Contiguous in memory too, as the maps of the stages.
        return (self.fine(fine).contiguous(), *self.forward_stages(x))
