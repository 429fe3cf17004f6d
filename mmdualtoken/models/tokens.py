"""Global tokens: position-aware ones, their MLPs, and the ablations."""

import torch
import torch.nn.functional as F
from torch import nn

from mmdualtoken.models.blocks import CrossAttention, SelfAttention, is_plain
from mmdualtoken.models.stem import resize_map


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


def resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """Bilinear resize from an `old` to a `new` grid as a matrix R, (new h*w, old h*w), fp64.

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

    n / n' keeps the sum over a changed number of input tokens at its scale; at equal size all is
    the identity.

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
    """Bring a backbone's tokens and mix MLPs to another grid, in its state dict, in place.

    Args:
        state: tensors by name.
        prefix: what the backbone's names begin with.
        new: the grid (h, w) to bring them to.
    """
    tokens = state[f"{prefix}global_tokens"]
    old = tuple(tokens.shape[1:3])
    state[f"{prefix}global_tokens"] = resize_tokens(tokens, new)
    suffix = "mlp.token_mix.weight"
    for key in [k for k in state if k.startswith(prefix) and k.endswith(suffix)]:
        bias = key.removesuffix("weight") + "bias"
        if state[key].shape != (old[0] * old[1],) * 2:
            continue  # of another grid than its tokens: it is refused as it is
        state[key], state[bias] = resize_token_mix(state[key], state[bias], old, new)


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
