"""Multi-head attention between token sets (Sec. 2.1: global aggregation and global broadcast)."""

import torch
import torch.nn.functional as F
from torch import nn


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(head_dim)) v per head: (B, N, C), 2 x (B, M, C) -> (B, N, C)."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention without an output projection (global aggregation).

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N, C)."""
        return attend(*self.qkv(x).chunk(3, dim=-1), self.num_heads)


class CrossAttention(nn.Module):
    """Multi-head attention with queries from one token set, keys and values from another.

    No output projection. With image tokens as queries and global tokens as keys and values it is
    the global broadcast, whose cost is linear in the number of image tokens.

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
    """

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims)
        self.kv = nn.Linear(embed_dims, 2 * embed_dims)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(B, N, C), (B, M, C) -> (B, N, C)."""
        return attend(self.q(x), *self.kv(context).chunk(2, dim=-1), self.num_heads)
