"""The Dual Token block (paper: Sec. 2.2), from its parts to the stage of blocks.

Image tokens are (B, H, W, C), global tokens (B, n, C). The file reads upwards: computing in chunks,
the norm of a map, attention, FFN and gates, the two local encoders, the block, the stage.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.convnext import LayerNorm2d

# Elements of the widest buffer of a chunk, per thread: 1 MiB in fp32, about a core's own cache.
CHUNK_ELEMENTS = 2**18


def runs_unchunked(x: torch.Tensor) -> bool:
    """Return whether `x` is computed at once instead of in chunks.

    A GPU's allocator keeps its memory, and the backward pass needs the buffers anyway. A recorded
    graph must not depend on the input's size.
    """
    return x.device.type != "cpu" or torch.is_grad_enabled() or records_graph()


def records_graph() -> bool:
    """Return whether a graph is recorded (`torch.compile`, export, `torch.jit.trace`)."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def chunk_over_tokens(function: Callable, x: torch.Tensor, width: int) -> torch.Tensor:
    """Apply a function that treats each token by itself, in chunks that fit the cache.

    Args:
        function: (..., C) -> (..., C').
        x: (..., C).
        width: channels of the widest buffer that `function` makes.

    Returns:
        (..., C').
    """
    if runs_unchunked(x):  # before any size is read: a graph must not record one
        return function(x)
    rows = max(1, CHUNK_ELEMENTS * torch.get_num_threads() // width)
    if x.shape[:-1].numel() <= rows:
        return function(x)
    chunks = [function(chunk) for chunk in x.flatten(0, -2).split(rows)]
    return torch.cat(chunks).unflatten(0, x.shape[:-1])


def chunk_over_images(function: Callable, x: torch.Tensor, width: int) -> torch.Tensor:
    """Apply a function that treats each image by itself, in chunks that fit the cache.

    Args:
        function: (b, C, H, W) -> (b, C', H', W').
        x: (B, C, H, W).
        width: elements of the widest buffer that `function` makes, per pixel of `x`.

    Returns:
        (B, C', H', W').
    """
    if runs_unchunked(x):
        return function(x)
    pixels = x.shape[-2:].numel()
    images = max(1, CHUNK_ELEMENTS * torch.get_num_threads() // max(1, width * pixels))
    if len(x) <= images:
        return function(x)
    return torch.cat([function(chunk) for chunk in x.split(images)])


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether calling a layer only applies its own weight and bias.

    False for layers that users put in its place (LoRA, quantised ones) and for parametrised or
    sharded ones, which have classes of their own. False also for layers with hooks: pruning adds
    some that recompute the weight.

    Args:
        layer: the layer.
        kinds: the exact classes that count as plain; nn.Linear without any.
    """
    hooks = layer._forward_pre_hooks or layer._forward_hooks
    hooks = hooks or layer._backward_pre_hooks or layer._backward_hooks
    return type(layer) in (kinds or (nn.Linear,)) and not hooks


def map_norm(cfg: dict, channels: int) -> nn.Module:
    """Build a norm of maps (B, C, H, W).

    Args:
        cfg: as in `mmcv.cnn.build_norm_layer`. Type 'LN' (or nn.LayerNorm) normalises over the
            channels, while mmcv's LN would normalise the last axes.
        channels: C.

    Raises:
        ValueError: 'LN' has other keys than `eps` and `requires_grad`.
        Exception: mmcv does not know the norm, or the norm does not know a key.
    """
    if cfg["type"] not in ("LN", nn.LayerNorm):
        return build_norm_layer(cfg, channels)[1]
    if unknown := set(cfg) - {"type", "eps", "requires_grad"}:
        raise ValueError(f"LN has no {sorted(unknown)}, only eps and requires_grad")
    norm = LayerNorm2d(channels, eps=cfg.get("eps", 1e-5))  # PyTorch's default of every norm
    return norm.requires_grad_(cfg.get("requires_grad", True))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v per head.

    Args:
        q: (B, N, C).
        k: (B, M, C).
        v: (B, M, C).
        num_heads: number of heads; divides C.

    Returns:
        (B, N, C).
    """
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention without an output projection: X_ga = MHSA(X_ds).

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

    It has no output projection. The global broadcast is this layer with q from the image tokens
    and k, v from the global tokens. Its cost is linear in the number of image tokens.

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


class FFN(nn.Module):
    """Linear C -> rC, GELU, Linear rC -> C.

    Args:
        embed_dims: channels C.
        ratio: hidden width r in multiples of C; r * C is a whole number. The paper has 8 in stage
            1, 4 in stages 2 and 3.
    """

    def __init__(self, embed_dims: int, ratio: float):
        super().__init__()
        self.hidden = round(embed_dims * ratio)  # of floats: may be 122.99999999999999
        self.fc1 = nn.Linear(embed_dims, self.hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(self.hidden, embed_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        return chunk_over_tokens(lambda z: self.fc2(self.act(self.fc1(z))), x, self.hidden)


class BiDimAttention(nn.Module):
    """Bi-dimensional attention (LightViT): Z * sigmoid(Wc g) * sigmoid(ws [l, g]).

    Y = LN(Z); g = GELU(Wg mean(Y)), the mean over all positions; l = GELU(Wl Y). Wc g is one gate
    per channel, ws [l, g] one per position.

    Args:
        embed_dims: channels C.
        reduction: the gates have C / reduction hidden channels.
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
        return z * self.channel_gate(g).sigmoid() * self.position_logits(loc, g).sigmoid()

    def position_logits(self, loc: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """ws [l, g]: (B, H, W, C/4), (B, 1, 1, C/4) -> (B, H, W, 1)."""
        return self.position_gate(torch.cat([loc, g.expand_as(loc)], dim=-1))


class ConvEncoder(nn.Module):
    """Conv Encoder, a ConvNeXt block: Z + gamma * PW2(GELU(PW1(LN(DWConv(Z))))).

    Args:
        embed_dims: channels C.
        kernel_size: odd side of the depthwise kernel; the paper has 5 in stage 1, 7 in stage 2.
        expansion: hidden width of the pointwise convolutions, in multiples of C.
        layer_scale_init_value: initial value of gamma.
    """

    def __init__(
        self,
        embed_dims: int,
        kernel_size: int,
        expansion: int = 4,
        layer_scale_init_value: float = 1e-6,
    ):
        super().__init__()
        self.dwconv = nn.Conv2d(
            embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims
        )
        self.hidden = expansion * embed_dims
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.pwconv1 = nn.Linear(embed_dims, self.hidden)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(self.hidden, embed_dims)
        self.gamma = nn.Parameter(torch.full((embed_dims,), layer_scale_init_value))

    @classmethod
    def for_block(cls, embed_dims: int, num_heads: int, kernel_size: int) -> "ConvEncoder":
        """Build it from the settings of a block; convolutions have no heads."""
        return cls(embed_dims, kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        z = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + chunk_over_tokens(self.pointwise, z, self.hidden)

    def pointwise(self, z: torch.Tensor) -> torch.Tensor:
        """gamma * PW2(GELU(PW1(LN(Z)))): (..., C) -> (..., C)."""
        return self.gamma * self.pwconv2(self.act(self.pwconv1(self.norm(z))))


class WindowAttention(nn.Module):
    """Self-attention in non-overlapping windows, in place of the Conv Encoder (Table 8).

    It has a relative position bias and an output projection, and no shift. Maps whose sides are no
    multiples of the window are padded at the bottom and right. Padded keys are masked, so padding
    never changes the result.

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
        window_size: side w of a window, in cells.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int = 7):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", self._pair_index(), persistent=False)

    @classmethod
    def for_block(cls, embed_dims: int, num_heads: int, kernel_size: int) -> "WindowAttention":
        """Build it from the settings of a block; windows have no kernel."""
        return cls(embed_dims, num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.proj(self.attend(self.qkv(x)))

    def attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend within each window: q, k, v as (B, H, W, 3C) -> (B, H, W, C)."""
        _, h, w, _ = qkv.shape
        rows, columns = ((side - 1) // self.window_size + 1 for side in (h, w))
        pad = (0, 0, 0, columns * self.window_size - w, 0, rows * self.window_size - h)
        bias = self.relative_position_bias()
        if records_graph() or any(pad):  # a graph for all sizes pads always
            # Bias of minus infinity for padded keys; every window has at least one real cell.
            real = self.partition(F.pad(qkv.new_ones(1, h, w, 1), pad), rows, columns)
            padded = real[0, :, None, None, :, 0] == 0  # (windows, 1, 1, w*w)
            bias = bias.to(qkv).masked_fill(padded, float("-inf"))
            qkv = F.pad(qkv, pad)
        out = self.attend_windows(self.partition(qkv, rows, columns), bias)
        return self.reverse(out, rows, columns)[:, :h, :w]

    def relative_position_bias(self) -> torch.Tensor:
        """Return the bias of each pair of cells, (heads, w*w, w*w)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def attend_windows(self, windows: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Attend within windows that are cut out.

        Args:
            windows: q, k, v as (B, windows, w*w, 3C).
            bias: (heads, w*w, w*w), or one of them per window.

        Returns:
            (B, windows, w*w, C).
        """
        count = windows.shape[1]
        windows = windows.unflatten(-1, (3, self.num_heads, -1))
        # Each (B, windows * heads, w*w, head_dim): fused kernels and ONNX take four axes.
        q, k, v = windows.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = bias.to(q.dtype).expand(count, -1, -1, -1).flatten(0, 1)[None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return out.unflatten(1, (count, self.num_heads)).transpose(2, 3).flatten(3)

    def partition(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """(B, rows*w, columns*w, C) -> (B, rows*columns, w*w, C), windows row by row."""
        s = self.window_size
        b, c = x.shape[0], x.shape[3]
        x = x.reshape(b, rows, s, columns, s, c).transpose(2, 3)
        return x.reshape(b, rows * columns, s * s, c)

    def reverse(self, x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Undo `partition`: (B, rows*columns, w*w, C) -> (B, rows*w, columns*w, C)."""
        s = self.window_size
        b, c = x.shape[0], x.shape[3]
        x = x.reshape(b, rows, columns, s, s, c).transpose(2, 3)
        return x.reshape(b, rows * s, columns * s, c)

    def _pair_index(self) -> torch.Tensor:
        """Return the row of the bias table for each (query, key) pair, (w*w, w*w)."""
        span = torch.arange(self.window_size)
        cell = torch.stack(torch.meshgrid(span, span, indexing="ij")).flatten(1)  # (2, w*w)
        dy, dx = cell[:, :, None] - cell[:, None, :] + self.window_size - 1
        return dy * (2 * self.window_size - 1) + dx


class DualTokenBlock(nn.Module):
    """Dual Token block: fuse local and global features, then FFN and bi-dimensional attention.

    X = X + DropPath(Wo (X_local + X_global)); X = X + DropPath(BiDim(FFN(LN2(X)))).

    Args:
        embed_dims: channels C.
        local_encoder: X_hat -> X_local; nn.Identity in stage 3.
        token_module: X_hat, X_local, G -> X_global, G + G_new (`mmdualtoken.models.tokens`).
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
        """(B, H, W, C), (B, n, C) -> the same two shapes; the tokens may be None."""
        x_hat = self.norm1(x)
        x_local = self.local_encoder(x_hat)
        x_global, tokens = self.token_module(x_hat, x_local, tokens)
        x = x + self.drop_path(self.proj(x_local + x_global))
        x = x + self.drop_path(self.bidim(self.ffn(self.norm2(x))))
        return x, tokens


class Stage(nn.Module):
    """Patch merging and the blocks of a stage.

    Args:
        merging: halves the resolution; nn.Identity in stage 1.
        token_proj: brings the global tokens to this stage's width; nn.Identity in stage 1.
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
