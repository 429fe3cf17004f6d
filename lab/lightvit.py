"""LightViT (arXiv 2207.05557), the paper's closest rival, from the layers that both have.

Written from its paper, and from facts of its published code where the paper leaves details open.
The stem, patch merging, FFN and bi-dimensional attention are this package's own, which are
LightViT's. What differs is the block: self-attention in windows, and eight global tokens that
gather from all image tokens and are broadcast to them.
"""

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import nn

from mmdualtoken.models import DualTokenViT
from mmdualtoken.models.blocks import FFN, BiDimAttention, WindowAttention, attend


class LightViTAttention(WindowAttention):
    """Attention in windows and through global tokens: X_local + X_global, and the new tokens.

    The tokens gather from the image tokens of the whole map. X_global is attention with q from the
    image tokens, k and v from the tokens' new values. All share q, k, v and output projections.

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
    """

    uses_tokens, grid = True, False  # the backbone's learned tokens form no grid

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__(embed_dims, num_heads)
        self.kv_global = nn.Linear(embed_dims, 2 * embed_dims)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Attend among n global and H * W image tokens, in this order.

        Args:
            x: (B, n + H * W, C).
            size: (H, W).

        Returns:
            (B, n + H * W, C).
        """
        n = x.shape[1] - size[0] * size[1]
        qkv = self.qkv(x)
        q, k, v = qkv.chunk(3, dim=-1)
        tokens = attend(q[:, :n], k[:, n:], v[:, n:], self.num_heads)
        local = self.attend(qkv[:, n:].unflatten(1, size)).flatten(1, 2)
        broadcast = attend(q[:, n:], *self.kv_global(tokens).chunk(2, dim=-1), self.num_heads)
        return self.proj(torch.cat([tokens, local + broadcast], dim=1))


class LightViTBlock(nn.Module):
    """Z = Z + DropPath(Attention(LN(Z))); Z = Z + DropPath(BiDim(FFN(LN(Z)))).

    Z are the global tokens and the image tokens, in one sequence.

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
        ffn_ratio: hidden width of the FFN in multiples of C.
        drop_path_rate: probability to drop a residual branch of a sample during training.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, ffn_ratio: float, drop_path_rate: float = 0.0
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attention = LightViTAttention(embed_dims, num_heads)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, ffn_ratio)
        self.bidim = BiDimAttention(embed_dims)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """(B, H, W, C), (B, n, C) -> the same two shapes."""
        size = x.shape[1:3]
        z = torch.cat([tokens, x.flatten(1, 2)], dim=1)
        z = z + self.drop_path(self.attention(self.norm1(z), size))
        z = z + self.drop_path(self.bidim(self.ffn(self.norm2(z))[:, None])[:, 0])
        n = tokens.shape[1]
        return z[:, n:].unflatten(1, size), z[:, :n]


@MODELS.register_module()
class LightViT(DualTokenViT):
    """LightViT with three stages at strides 8, 16 and 32; any input size works.

    Args:
        arch: 'tiny', or a dict of `embed_dims`, `depths`, `num_heads`, `ffn_ratios`.
        num_tokens: number of global tokens.
        kwargs: DualTokenViT's, but for those of its blocks and tokens.

    Raises:
        WrongValue: an argument is out of range or unknown; the message says what is allowed.
    """

    arch_settings = {
        "tiny": dict(
            embed_dims=(64, 128, 256), depths=(2, 6, 6), num_heads=(2, 4, 8), ffn_ratios=(8, 4, 4)
        )
    }

    def __init__(self, arch: str | dict = "tiny", num_tokens: int = 8, **kwargs):
        super().__init__(arch, token_module=LightViTAttention, token_size=num_tokens, **kwargs)

    def _make_block(self, i: int, drop_path_rate: float) -> LightViTBlock:
        dim, heads, ratio = (self.arch[k][i] for k in ("embed_dims", "num_heads", "ffn_ratios"))
        return LightViTBlock(dim, heads, ratio, drop_path_rate)
