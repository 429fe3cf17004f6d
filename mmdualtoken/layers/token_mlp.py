"""The MLPs on the global tokens before fusion (Sec. 2.2)."""

import torch
from torch import nn

from .plain import is_plain


class TokenMLP(nn.Module):
    """Plain MLP over channels: Linear(GELU(Linear(G))), C -> C -> C.

    Args:
        embed_dims: channels C.
        num_tokens: not used; here because the mix MLP, its alternative, needs it.
    """

    def __init__(self, embed_dims: int, num_tokens: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, embed_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(embed_dims, embed_dims)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C) -> (B, n, C)."""
        return self.fc2(self.act(self.fc1(tokens)))


class TokenMixMLP(nn.Module):
    """Mix MLP: a Linear over the n tokens, GELU, a Linear over the channels.

    Args:
        embed_dims: channels C.
        num_tokens: number of global tokens n = h * w.
    """

    def __init__(self, embed_dims: int, num_tokens: int):
        super().__init__()
        self.token_mix = nn.Linear(num_tokens, num_tokens)
        self.act = nn.GELU()
        self.channel_mix = nn.Linear(embed_dims, embed_dims)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, n, C) -> (B, n, C)."""
        return self.channel_mix(self.act(self._mix(tokens)))

    def _mix(self, tokens: torch.Tensor) -> torch.Tensor:
        """The Linear over the n tokens: (B, n, C) -> (B, n, C)."""
        if not is_plain(self.token_mix):
            return self.token_mix(tokens.transpose(1, 2)).transpose(1, 2)
        # Without transposing the tokens to the last axis and back.
        weight, bias = self.token_mix.weight, self.token_mix.bias
        return torch.baddbmm(bias[:, None], weight.expand(tokens.shape[0], -1, -1), tokens)
