"""The Dual Token block (Fig. 2): local and global information, fused."""

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn

from .ffn import FFN, BiDimAttention


class DualTokenBlock(nn.Module):
    """Fuse local and global features, then FFN and bi-dimensional attention.

    X = X + DropPath(Wo (X_local + X_global)); X = X + DropPath(BiDim(FFN(LN(X)))).

    Args:
        embed_dims: channels C.
        local_encoder: module for X_local; nn.Identity in stage 3.
        token_module: module for X_global and the global tokens (`mmdualtoken.layers.tokens`).
        ffn_ratio: hidden width of the FFN in multiples of C.
        drop_path_rate: probability to drop a residual branch of a sample during training.
    """

    def __init__(
        self,
        embed_dims: int,
        local_encoder: nn.Module,
        token_module: nn.Module,
        ffn_ratio: float,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.local_encoder = local_encoder
        self.token_module = token_module
        self.proj = nn.Linear(embed_dims, embed_dims)  # Wo
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, ffn_ratio)
        self.bidim = BiDimAttention(embed_dims)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: torch.Tensor, tokens: torch.Tensor | None) -> tuple:
        """(B, H, W, C), (B, n, C) -> the same two shapes."""
        x_hat = self.norm1(x)
        x_local = self.local_encoder(x_hat)
        x_global, tokens = self.token_module(x_hat, x_local, tokens)
        x = x + self.drop_path(self.proj(x_local + x_global))
        x = x + self.drop_path(self.bidim(self.ffn(self.norm2(x))))
        return x, tokens
