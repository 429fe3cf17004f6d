"""Global information of a block: the position-aware token module and its ablations (Fig. 3).

Each class takes the normalised image tokens, the local features and the global tokens of the block
before, and returns what is broadcast to the image tokens and the global tokens for the next block.
"""

import torch
from torch import nn

from .attention import CrossAttention, SelfAttention
from .downsample import resize_map


class NoTokens(nn.Module):
    """Aggregation and broadcast without global tokens (Table 7, 0 tokens): X_global reads X_ga.

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
        token_size: grid (h, w) at which X_local is aggregated.
        downsample: module that reduces X_local before it is resized to the grid.
        mlp: class of the MLP on the tokens; not used here.
        alpha: weight of the tokens in the fusion; not used here.
    """

    uses_tokens = False
    grid = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        token_size: tuple[int, int],
        downsample: nn.Module,
        mlp: type[nn.Module],
        alpha: float,
    ):
        super().__init__()
        self.token_size = tuple(token_size)
        self.downsample = downsample
        self.aggregate = SelfAttention(embed_dims, num_heads)
        self.broadcast = CrossAttention(embed_dims, num_heads)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """X_ga = MHSA(X_ds): (B, H, W, C) -> (B, h*w, C)."""
        x_ds = resize_map(self.downsample(x_local), self.token_size).flatten(1, 2)
        return self.aggregate(x_ds)

    def spread(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Broadcast to the image tokens: (B, H, W, C), (B, n, C) -> (B, H, W, C)."""
        return self.broadcast(x.flatten(1, 2), source).view(x.shape)

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: None) -> tuple:
        """2 x (B, H, W, C), None -> (B, H, W, C), None."""
        return self.spread(x, self.gather(x_local)), tokens


class PositionAwareTokens(NoTokens):
    """The paper's module (Fig. 3e): G_new = alpha MLP(LN(G)) + (1 - alpha) X_ga.

    X_global reads G_new, and G + G_new goes on to the next block.

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
        token_size: grid (h, w) of the global tokens, 7x7 in the paper.
        downsample: module that reduces X_local before it is resized to the grid.
        mlp: class of the MLP on the tokens, built as mlp(embed_dims, num_tokens).
        alpha: weight of the tokens in the fusion, 0.1 in the paper.
    """

    uses_tokens = True

    def __init__(self, embed_dims, num_heads, token_size, downsample, mlp, alpha):
        super().__init__(embed_dims, num_heads, token_size, downsample, mlp, alpha)
        self.alpha = alpha
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = mlp(embed_dims, token_size[0] * token_size[1])

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, h*w, C) -> (B, H, W, C), (B, h*w, C)."""
        x_ga = self.gather(x_local)
        new = self.alpha * self.mlp(self.norm(tokens)) + (1 - self.alpha) * x_ga
        return self.spread(x, new), tokens + new


class NormalTokens(nn.Module):
    """Normal global tokens (Fig. 3c): G_new = Wo MHA(LN(G); k, v from X_local), without a grid.

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
        token_size: (1, n) for n tokens, 8 in the paper.
        downsample: not used: keys and values come from X_local itself.
        mlp: not used.
        alpha: not used.
    """

    uses_tokens = True
    grid = False

    def __init__(self, embed_dims, num_heads, token_size, downsample, mlp, alpha):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.fuse = CrossAttention(embed_dims, num_heads)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.broadcast = CrossAttention(embed_dims, num_heads)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """What the global tokens read: (B, H, W, C) -> (B, N, C)."""
        return x_local.flatten(1, 2)

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, n, C) -> (B, H, W, C), (B, n, C)."""
        new = self.proj(self.fuse(self.norm(tokens), self.gather(x_local)))
        x_global = self.broadcast(x.flatten(1, 2), new).view(x.shape)
        return x_global, tokens + new


class MSATokens(NormalTokens):
    """Normal tokens that read the aggregated grid X_ga instead of X_local (Fig. 3d).

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
        token_size: (1, n) for n tokens, 8 in the paper.
        downsample: module that reduces X_local before it is resized to the 7x7 grid.
        mlp: not used.
        alpha: not used.
    """

    grid_size = (7, 7)  # of X_ds; the paper's, independent of the number of tokens

    def __init__(self, embed_dims, num_heads, token_size, downsample, mlp, alpha):
        super().__init__(embed_dims, num_heads, token_size, downsample, mlp, alpha)
        self.downsample = downsample
        self.aggregate = SelfAttention(embed_dims, num_heads)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """X_ga = MHSA(X_ds): (B, H, W, C) -> (B, 49, C)."""
        return self.aggregate(resize_map(self.downsample(x_local), self.grid_size).flatten(1, 2))
