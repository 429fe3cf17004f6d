"""Global tokens (paper: Sec. 2.2): their MLPs, the token modules, and resizing to another grid.

A token module maps X_hat and X_local, both (B, H, W, C), and the global tokens G, (B, n, C), to
X_global, (B, H, W, C), and the tokens of the next block.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from mmdualtoken.models.blocks import CrossAttention, SelfAttention, is_plain
from mmdualtoken.models.stem import resize_map


class TokenMLP(nn.Module):
    """Plain MLP over the channels: Linear(GELU(Linear(G))), C -> C -> C.

    Args:
        embed_dims: channels C.
    """

    def __init__(self, embed_dims: int):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, embed_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(embed_dims, embed_dims)

    @classmethod
    def for_block(cls, embed_dims: int, num_tokens: int) -> "TokenMLP":
        """Build it from the settings of a block; it treats each token by itself."""
        return cls(embed_dims)

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
        return self.channel_mix(self.act(self.mix(tokens)))

    def mix(self, tokens: torch.Tensor) -> torch.Tensor:
        """Apply the Linear over the n tokens: (B, n, C) -> (B, n, C)."""
        if not is_plain(self.token_mix):
            return self.token_mix(tokens.transpose(1, 2)).transpose(1, 2)
        # The same product without the two transposes, which would copy the tokens.
        weight, bias = self.token_mix.weight, self.token_mix.bias
        return torch.baddbmm(bias[:, None], weight.expand(tokens.shape[0], -1, -1), tokens)


class GlobalBroadcast(nn.Module):
    """Base of the token modules: `spread` broadcasts to the image tokens by `self.broadcast`.

    Attributes:
        uses_tokens: whether the backbone has learned tokens for this module.
        grid: whether the tokens form a grid (h, w), which `token_size` gives.
        broadcast: CrossAttention with q from the image tokens.
    """

    uses_tokens = True
    grid = True
    broadcast: CrossAttention

    def spread(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Return attention(q = Wq X, k, v = Wkv source).

        Args:
            x: image tokens (B, H, W, C).
            source: (B, n, C).

        Returns:
            X_global, (B, H, W, C).
        """
        return self.broadcast(x.flatten(1, 2), source).view(x.shape)


class GridAttention(GlobalBroadcast):
    """Base of the token modules that aggregate X_local at the grid of the global tokens.

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
        token_size: grid (h, w); the paper has 7x7.
        downsample: reduces X_local before it is resized to the grid.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, token_size: tuple[int, int], downsample: nn.Module
    ):
        super().__init__()
        self.token_size = tuple(token_size)
        self.downsample = downsample
        self.aggregate = SelfAttention(embed_dims, num_heads)
        self.broadcast = CrossAttention(embed_dims, num_heads)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """X_ga = MHSA(X_ds): (B, H, W, C) -> (B, h*w, C)."""
        x_ds = resize_map(self.downsample(x_local), self.token_size)
        return self.aggregate(x_ds.flatten(1, 2))


class PositionAwareTokens(GridAttention):
    """The paper's module (Fig. 3e): G_new = alpha MLP(LN(G)) + (1 - alpha) X_ga.

    X_global reads G_new; the next block gets G + G_new.

    Args:
        embed_dims, num_heads, token_size, downsample: as in `GridAttention`.
        mlp: builds the MLP on the tokens, called as mlp(embed_dims, num_tokens).
        alpha: weight of the tokens in the fusion; the paper has 0.1.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        token_size: tuple[int, int],
        downsample: nn.Module,
        mlp: Callable[[int, int], nn.Module],
        alpha: float,
    ):
        super().__init__(embed_dims, num_heads, token_size, downsample)
        self.alpha = alpha
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = mlp(embed_dims, token_size[0] * token_size[1])

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, h*w, C) -> (B, H, W, C), (B, h*w, C)."""
        x_ga = self.gather(x_local)
        g_new = self.alpha * self.mlp(self.norm(tokens)) + (1 - self.alpha) * x_ga
        return self.spread(x, g_new), tokens + g_new


class NoTokens(GridAttention):
    """Aggregation and broadcast without global tokens (Table 7, 0 tokens): X_global reads X_ga."""

    uses_tokens = False

    @classmethod
    def for_block(cls, embed_dims, num_heads, token_size, downsample, mlp, alpha) -> "NoTokens":
        """Build it from the settings of a block; there are no tokens to fuse."""
        return cls(embed_dims, num_heads, token_size, downsample)

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: None) -> tuple:
        """2 x (B, H, W, C), None -> (B, H, W, C), None."""
        return self.spread(x, self.gather(x_local)), tokens


class FreeTokens(GlobalBroadcast):
    """Base of the ablations whose n tokens form no grid: G_new = Wo MHA(q = LN(G), k, v).

    `gather` computes the source of k, v from X_local. X_global reads G_new; the next block gets
    G + G_new.

    Args:
        embed_dims: channels C.
        num_heads: number of attention heads; divides C.
    """

    grid = False

    def __init__(self, embed_dims: int, num_heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.fuse = CrossAttention(embed_dims, num_heads)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.broadcast = CrossAttention(embed_dims, num_heads)

    def forward(self, x: torch.Tensor, x_local: torch.Tensor, tokens: torch.Tensor) -> tuple:
        """2 x (B, H, W, C), (B, n, C) -> (B, H, W, C), (B, n, C)."""
        g_new = self.proj(self.fuse(self.norm(tokens), self.gather(x_local)))
        return self.spread(x, g_new), tokens + g_new


class NormalTokens(FreeTokens):
    """Normal global tokens (Fig. 3c), 8 in the paper: k, v from X_local."""

    @classmethod
    def for_block(cls, embed_dims, num_heads, token_size, downsample, mlp, alpha) -> "NormalTokens":
        """Build it from the settings of a block; it has neither grid nor MLP."""
        return cls(embed_dims, num_heads)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H*W, C)."""
        return x_local.flatten(1, 2)


class MSATokens(FreeTokens):
    """Normal tokens that read the aggregated grid X_ga instead of X_local (Fig. 3d).

    Args:
        embed_dims, num_heads: as in `FreeTokens`.
        downsample: reduces X_local before it is resized to the 7x7 grid.
    """

    grid_size = (7, 7)  # of X_ds; the paper's, independent of the number of tokens

    def __init__(self, embed_dims: int, num_heads: int, downsample: nn.Module):
        super().__init__(embed_dims, num_heads)
        self.downsample = downsample
        self.aggregate = SelfAttention(embed_dims, num_heads)

    @classmethod
    def for_block(cls, embed_dims, num_heads, token_size, downsample, mlp, alpha) -> "MSATokens":
        """Build it from the settings of a block; its fusion is an attention, not an MLP."""
        return cls(embed_dims, num_heads, downsample)

    def gather(self, x_local: torch.Tensor) -> torch.Tensor:
        """X_ga = MHSA(X_ds): (B, H, W, C) -> (B, 49, C)."""
        x_ds = resize_map(self.downsample(x_local), self.grid_size)
        return self.aggregate(x_ds.flatten(1, 2))


def resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Return the bilinear resize from an `old` to a `new` grid as a matrix R, (n', n) in fp64.

    Each row sums to 1, so that constants stay constant.
    """
    n = old[0] * old[1]
    basis = torch.eye(n, dtype=torch.float64).view(n, 1, *old)
    resized = F.interpolate(basis, new, mode="bilinear", align_corners=False)  # column j of R
    return resized.flatten(1).T


def resize_tokens(tokens: torch.Tensor, new: tuple[int, int]) -> torch.Tensor:
    """Resize global tokens: (1, h, w, C) -> (1, h', w', C)."""
    old = tuple(tokens.shape[1:3])
    r = resize_matrix(old, new).to(tokens.device)
    resized = r @ tokens.double().flatten(1, 2)[0]
    return resized.view(1, *new, -1).to(tokens.dtype)


def resize_token_mix(
    weight: torch.Tensor, bias: torch.Tensor, old: tuple[int, int], new: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize the Linear over tokens of the mix MLP: W' = R W R^T n / n', b' = R b.

    n / n' keeps the scale of the sum over the input tokens when their number changes. At equal
    size both stay as they are.

    Args:
        weight: (n, n) with n = h * w of the old grid.
        bias: (n,).
        old: old grid (h, w).
        new: new grid (h', w').

    Returns:
        weight (n', n') and bias (n',).
    """
    r = resize_matrix(old, new).to(weight.device)
    n_old, n_new = r.shape[1], r.shape[0]
    weight_new = r @ weight.double() @ r.T * (n_old / n_new)
    return weight_new.to(weight.dtype), (r @ bias.double()).to(bias.dtype)


def resize_state(state: dict, prefix: str, new: tuple[int, int]) -> None:
    """Resize a backbone's tokens and mix MLPs to another grid, in its state dict, in place.

    Args:
        state: tensors by name.
        prefix: prefix of the backbone's names in it.
        new: the new grid (h, w).
    """
    tokens = state[f"{prefix}global_tokens"]
    old = tuple(tokens.shape[1:3])
    state[f"{prefix}global_tokens"] = resize_tokens(tokens, new)
    suffix = "mlp.token_mix.weight"
    for key in [k for k in state if k.startswith(prefix) and k.endswith(suffix)]:
        bias = key.removesuffix("weight") + "bias"
        if state[key].shape != (old[0] * old[1],) * 2 or bias not in state:
            continue  # it does not fit the file's own tokens: loading refuses it
        state[key], state[bias] = resize_token_mix(state[key], state[bias], old, new)
