"""The feed-forward network of a block and the bi-dimensional attention after it (LightViT's)."""

import torch
from torch import nn

from .pieces import by_positions


class FFN(nn.Module):
    """Linear C -> rC, GELU, Linear rC -> C.

    Args:
        embed_dims: channels C.
        ratio: hidden width r in multiples of C, so that r * C is a whole number; 8 in stage 1, 4
            in stages 2 and 3.
    """

    def __init__(self, embed_dims: int, ratio: float):
        super().__init__()
        self.hidden = round(embed_dims * ratio)  # of floats: may be 122.99999999999999
        self.fc1 = nn.Linear(embed_dims, self.hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(self.hidden, embed_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        return by_positions(lambda x: self.fc2(self.act(self.fc1(x))), x, self.hidden)


class BiDimAttention(nn.Module):
    """Gate the features per channel and per position: Z * sigmoid(Wc g) * sigmoid(ws [l, g]).

    Y = LN(Z); g = GELU(Wg mean(Y)) over all positions; l = GELU(Wl Y).

    Args:
        embed_dims: channels C.
        reduction: the gates work at C / reduction channels.
    """

    def __init__(self, embed_dims: int, reduction: int = 4):
        super().__init__()
        hidden = embed_dims // reduction
        self.norm = nn.LayerNorm(embed_dims, eps=1e-5)
        self.global_reduce = nn.Linear(embed_dims, hidden)  # Wg
        self.local_reduce = nn.Linear(embed_dims, hidden)  # Wl
        self.act = nn.GELU()
        self.channel_gate = nn.Linear(hidden, embed_dims)  # Wc
        self.position_gate = nn.Linear(2 * hidden, 1)  # ws

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        y = self.norm(z)
        g = self.act(self.global_reduce(y.mean((1, 2), keepdim=True)))  # (B, 1, 1, C/4)
        loc = self.act(self.local_reduce(y))  # (B, H, W, C/4)
        return z * self.channel_gate(g).sigmoid() * self.position(loc, g).sigmoid()

    def position(self, loc: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """ws [l, g]: (B, H, W, C/4), (B, 1, 1, C/4) -> (B, H, W, 1)."""
        return self.position_gate(torch.cat([loc, g.expand_as(loc)], dim=-1))
