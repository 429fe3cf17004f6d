"""Local information of a block: the Conv Encoder (Sec. 2.1), and window attention (Table 8)."""

import torch
import torch.nn.functional as F
from torch import nn

from .pieces import by_positions


class ConvEncoder(nn.Module):
    """ConvNeXt block: Z + gamma * PW2(GELU(PW1(LN(DWConv(Z))))).

    Args:
        embed_dims: channels C.
        num_heads: not used; here because window attention, its alternative, has heads.
        kernel_size: of the depthwise convolution; 5 in stage 1 and 7 in stage 2 of the paper.
        expansion: hidden width of the pointwise convolutions, in multiples of C.
        layer_scale_init_value: initial value of gamma.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        z = self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.gamma * by_positions(self.pointwise, z, self.hidden)

    def pointwise(self, z: torch.Tensor) -> torch.Tensor:
        """PW2(GELU(PW1(LN(Z)))), (..., C) -> (..., C)."""
        return self.pwconv2(self.act(self.pwconv1(self.norm(z))))


class WindowAttention(nn.Module):
    """Self-attention in non-overlapping windows, in place of the Conv Encoder (Table 8).

    With a relative position bias and an output projection, without shift. Sizes that are no
    multiple of the window are padded at the bottom and right; padded keys are masked, so padding
    never changes the result.

    Args:
        embed_dims: channels C.
        num_heads: number of heads; divides C.
        kernel_size: not used; here because the Conv Encoder has one.
        window_size: side of a window, in cells.
    """

    def __init__(self, embed_dims: int, num_heads: int, kernel_size: int, window_size: int = 7):
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        table = torch.empty((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self.register_buffer("relative_position_index", self._pair_index(), persistent=False)

    def _pair_index(self) -> torch.Tensor:
        """Row of the bias table for each (query, key) pair of a window, (w*w, w*w)."""
        span = torch.arange(self.window_size)
        cell = torch.stack(torch.meshgrid(span, span, indexing="ij")).flatten(1)  # (2, w*w)
        dy, dx = cell[:, :, None] - cell[:, None, :] + self.window_size - 1
        return dy * (2 * self.window_size - 1) + dx

    def relative_position_bias(self) -> torch.Tensor:
        """(heads, w*w, w*w)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        _, h, w, _ = x.shape
        rows, columns = ((side - 1) // self.window_size + 1 for side in (h, w))
        pad = (0, 0, 0, columns * self.window_size - w, 0, rows * self.window_size - h)
        bias = self.relative_position_bias()
        if torch.compiler.is_compiling() or any(pad):  # a graph for all sizes pads always
            # Bias of minus infinity for padded keys; every window has at least one real cell.
            real = self.partition(F.pad(x.new_ones(1, h, w, 1), pad), rows, columns)
            padded = real[0, :, None, None, :, 0] == 0  # (windows, 1, 1, w*w)
            bias = bias.to(x).masked_fill(padded, float("-inf"))
            x = F.pad(x, pad)
        qkv = self.qkv(self.partition(x, rows, columns)).unflatten(-1, (3, self.num_heads, -1))
        # Each (B, windows * heads, w*w, head_dim): four axes, which fused kernels and ONNX ask for.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        bias = bias.to(q.dtype).expand(rows * columns, -1, -1, -1).flatten(0, 1)[None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.unflatten(1, (rows * columns, self.num_heads)).transpose(2, 3).flatten(3)
        out = self.proj(out)
        return self.reverse(out, rows, columns)[:, :h, :w]
