"""DualToken-ViT with a map at stride 4, for objects of a few pixels; not in the paper."""

import torch
from mmengine.registry import MODELS

from mmdualtoken.models.arguments import Checks
from mmdualtoken.models.deploy import fuse_conv_modules
from mmdualtoken.models.dualtoken_vit import DualTokenViT
from mmdualtoken.models.stem import StemWithStride4, stride4_branch


@MODELS.register_module()
class DualTokenViTStride4(DualTokenViT):
    """DualTokenViT that returns a map at stride 4 before those of its stages.

    The design's finest map is at stride 8, and its FPN (`DualTokenFPN`) upsamples that to stride 4.
    Here the stem's map at stride 4, which the design computes anyway, goes through a few inverted
    residuals. An FPN that begins at stride 4 reads it, such as MMDetection's own; for `small`:
    dict(type='FPN', in_channels=[64, 64, 128, 256], out_channels=256, num_outs=5).

    init_cfg 'Pretrained' loads a DualTokenViT classifier's checkpoint into all but the added
    blocks. `out_norm_cfg`, `frozen_stages` and `norm_eval` do not concern these: their own
    BatchNorm is the norm of this map. `sync_bn = "torch"` in the config makes it SyncBN.

    Args:
        fine_blocks: inverted residuals on the map at stride 4. From 1 block the map has
            embed_dims[0] channels. Without blocks it is the stem's, of embed_dims[0] / 2:
            in_channels [32, 64, 128, 256] for `small`.
        kwargs: DualTokenViT's. `out_indices` count the stages' maps; the map at stride 4 always
            comes first.

    Raises:
        WrongValue: an argument is out of range or unknown; the message says what is allowed.
    """

    stem_class = StemWithStride4

    def __init__(self, *args, fine_blocks: int = 2, **kwargs):
        super().__init__(*args, **kwargs)
        blocks = Checks("DualTokenViTStride4").integer("fine_blocks", fine_blocks, 0)
        width = self.arch["embed_dims"][0]
        self.fine = stride4_branch(width // 2, width, blocks)

    def get_layer_depth(self, param_name: str, prefix: str = "backbone.") -> tuple[int, int]:
        """As DualTokenViT's; the added blocks are of the last layer, as the output norms are."""
        depth, layers = super().get_layer_depth(param_name, prefix)
        return layers - 1 if param_name.startswith(f"{prefix}fine.") else depth, layers

    def switch_to_deploy(self) -> None:
        """As DualTokenViT's; the added blocks' BatchNorm goes into their convolutions, too."""
        super().switch_to_deploy()
        fuse_conv_modules(self.fine)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, 3, H, W) -> (B, C_1, ceil(H/4), ceil(W/4)), and the maps of `out_indices`."""
        stride4, x = self.stem(x)
        # Contiguous in memory, as `forward_stages` returns its maps.
        return (self.fine(stride4).contiguous(), *self.forward_stages(x))
