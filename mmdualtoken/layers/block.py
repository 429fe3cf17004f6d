"""The Dual Token block (Fig. 2), which fuses local and global information, and stages of it."""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.utils.checkpoint import checkpoint

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


class Stage(nn.Module):
    """Patch merging (from the second stage on) and the stage's blocks.

    Args:
        merging: module that halves the resolution, nn.Identity in stage 1.
        token_proj: module that brings the tokens to this stage's width, nn.Identity in stage 1.
        blocks: the Dual Token blocks.
        with_cp: recompute each block in the backward pass to save memory.
    """

    def __init__(
        self,
        merging: nn.Module,
        token_proj: nn.Module,
        blocks: Sequence[nn.Module],
        with_cp: bool = False,
    ):
        super().__init__()
        self.merging = merging
        self.token_proj = token_proj
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: torch.Tensor, tokens: torch.Tensor | None) -> tuple:
        """(B, H, W, C), (B, n, C) -> (B, H', W', C'), (B, n, C')."""
        x, tokens = self.merging(x), self.token_proj(tokens)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled():
                x, tokens = checkpoint(block, x, tokens, use_reentrant=False)
            else:
                x, tokens = block(x, tokens)
        return x, tokens
