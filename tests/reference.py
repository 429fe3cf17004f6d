"""The design a second time, in plain steps: what the package is compared with.

Written from the paper's formulas and not from the package, of which it shares only the names of
the parameters. It favours explicit steps over speed: attention is a loop over heads, windows and
pooling cells are slices. Convolutions, norms and GELU are torch's own.

Each function takes `p`, the parameters of its module by name (see `sub`), and maps as
(B, H, W, C) unless it says so. Every function works in the dtype of its inputs.
"""

import math

import torch
import torch.nn.functional as F
from torch.nn.functional import gelu

HEAD_EPS, NORM_EPS = 1e-5, 1e-6  # stem, merging, BiDim, neck; LN1, LN2, LN(G), encoder, outputs


def sub(p, prefix):
    """The parameters below `prefix`, without it."""
    prefix += "."
    return {name[len(prefix) :]: value for name, value in p.items() if name.startswith(prefix)}


# ---------------------------------------------------------------- elementary operations


def linear(p, x):
    return F.linear(x, p["weight"], p.get("bias"))


def layer_norm(p, x, eps):
    return F.layer_norm(x, x.shape[-1:], p["weight"], p["bias"], eps)


def batch_norm(p, x, training=False):
    """(B, C, H, W); with `training`, by the statistics of the batch."""
    mean, var = (None if training else p[f"running_{kind}"] for kind in ("mean", "var"))
    return F.batch_norm(x, mean, var, p["weight"], p["bias"], training, eps=1e-5)


def conv(p, x, stride=1):
    """(B, C, H, W), zero border of k // 2; depthwise if the weight has one input channel of C."""
    weight = p["weight"]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(x, weight, p.get("bias"), stride, weight.shape[-1] // 2, groups=groups)


def to_bchw(x):
    return x.permute(0, 3, 1, 2)


def to_bhwc(x):
    return x.permute(0, 2, 3, 1)


def pool(x, reduce):
    """2x2 cells, those at odd borders with fewer pixels, each reduced over its real pixels."""
    height, width = x.shape[1:3]
    return torch.stack(
        [
            torch.stack(
                [reduce(x[:, i : i + 2, j : j + 2].flatten(1, 2)) for j in range(0, width, 2)], 1
            )
            for i in range(0, height, 2)
        ],
        1,
    )


def avg_pool(x):
    return pool(x, lambda cell: cell.sum(1) / cell.shape[1])


def max_pool(x):
    return pool(x, lambda cell: cell.max(1).values)


def source_weights(old, new):
    """For each new position, with pixel centres aligned: the old ones it reads, and weights."""
    rows = []
    for i in range(new):
        centre = max((i + 0.5) * old / new - 0.5, 0.0)
        low = min(int(centre), old - 1)
        high = min(low + 1, old - 1)
        rows.append([(low, 1 - (centre - low)), (high, centre - low)])
    return rows


def bilinear(x, size):
    """(B, H, W, C) -> (B, h, w, C), align_corners=False, no antialiasing."""
    rows, cols = source_weights(x.shape[1], size[0]), source_weights(x.shape[2], size[1])
    x = torch.stack([sum(weight * x[:, i] for i, weight in row) for row in rows], 1)
    return torch.stack([sum(weight * x[:, :, j] for j, weight in col) for col in cols], 2)


def attention(q, k, v, num_heads, bias=None):
    """(B, N, C), 2 x (B, M, C); `bias` (heads, N, M) is added to the logits."""
    dim = q.shape[-1] // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * dim, (head + 1) * dim)
        logits = torch.einsum("bnc,bmc->bnm", q[..., part], k[..., part]) / math.sqrt(dim)
        if bias is not None:
            logits = logits + bias[head]
        weights = torch.exp(logits - logits.max(-1, keepdim=True).values)
        weights = weights / weights.sum(-1, keepdim=True)
        heads.append(torch.einsum("bnm,bmc->bnc", weights, v[..., part]))
    return torch.cat(heads, -1)


# ---------------------------------------------------------------- layers


def stem(p, x, training=False):
    """Image (B, 3, H, W) -> (B, H', W', C); sub-modules are numbered conv, BN, GELU, ..."""
    for i, stride in ((0, 2), (3, 1), (6, 1), (9, 2)):
        x = conv(sub(p, f"convs.{i}"), x, stride)
        x = gelu(batch_norm(sub(p, f"convs.{i + 1}"), x, training))
    x = conv(sub(p, "convs.12"), x, 2)
    return layer_norm(sub(p, "norm"), to_bhwc(x), HEAD_EPS)


def space_to_depth(x):
    """Channels in the order (row, column, channel); cells beyond the border are zero."""
    b, height, width, c = x.shape
    rows = []
    for i in range(0, height, 2):
        cells = []
        for j in range(0, width, 2):
            cell = x.new_zeros(b, 2, 2, c)
            real = x[:, i : i + 2, j : j + 2]
            cell[:, : real.shape[1], : real.shape[2]] = real
            cells.append(cell.reshape(b, 4 * c))
        rows.append(torch.stack(cells, 1))
    return torch.stack(rows, 1)


def merging(p, x):
    deep = layer_norm(sub(p, "norm"), space_to_depth(x), HEAD_EPS)
    return linear(sub(p, "reduction"), deep) + linear(sub(p, "pool_proj"), max_pool(x))


def token_projection(p, tokens):
    return linear(sub(p, "proj"), layer_norm(sub(p, "norm"), tokens, HEAD_EPS))


def conv_encoder(p, z):
    y = to_bhwc(conv(sub(p, "dwconv"), to_bchw(z)))
    y = layer_norm(sub(p, "norm"), y, NORM_EPS)
    return z + p["gamma"] * linear(sub(p, "pwconv2"), gelu(linear(sub(p, "pwconv1"), y)))


def window_attention(p, x, num_heads, side=7):
    """Each window by itself, over the cells that exist: no padding, so nothing to mask."""
    c = x.shape[-1]
    y = x.new_zeros(x.shape)
    for i in range(0, x.shape[1], side):
        for j in range(0, x.shape[2], side):
            window = x[:, i : i + side, j : j + side]
            b, height, width, _ = window.shape
            cells = [(r, s) for r in range(height) for s in range(width)]
            index = torch.tensor(
                [
                    [(qr - kr + side - 1) * (2 * side - 1) + qs - ks + side - 1 for kr, ks in cells]
                    for qr, qs in cells
                ]
            )
            bias = p["relative_position_bias_table"][index].permute(2, 0, 1)
            qkv = linear(sub(p, "qkv"), window.reshape(b, height * width, c))
            out = attention(qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :], num_heads, bias)
            out = linear(sub(p, "proj"), out)
            y[:, i : i + side, j : j + side] = out.reshape(b, height, width, c)
    return y


def stepwise_downsample(p, x, num_convs):
    x = avg_pool(x)
    for i in range(num_convs):
        x = avg_pool(to_bhwc(conv(sub(p, f"convs.{i}"), to_bchw(x))))
    return x


def self_attention(p, x, num_heads):
    c = x.shape[-1]
    qkv = linear(sub(p, "qkv"), x)
    return attention(qkv[..., :c], qkv[..., c : 2 * c], qkv[..., 2 * c :], num_heads)


def cross_attention(p, x, context, num_heads):
    c = x.shape[-1]
    kv = linear(sub(p, "kv"), context)
    return attention(linear(sub(p, "q"), x), kv[..., :c], kv[..., c:], num_heads)


def token_mlp(p, tokens):
    return linear(sub(p, "fc2"), gelu(linear(sub(p, "fc1"), tokens)))


def token_mix_mlp(p, tokens):
    mixed = linear(sub(p, "token_mix"), tokens.transpose(1, 2)).transpose(1, 2)
    return linear(sub(p, "channel_mix"), gelu(mixed))


def ffn(p, x):
    return linear(sub(p, "fc2"), gelu(linear(sub(p, "fc1"), x)))


def bidim(p, z):
    y = layer_norm(sub(p, "norm"), z, HEAD_EPS)
    mean = y.sum((1, 2), keepdim=True) / (z.shape[1] * z.shape[2])
    g = gelu(linear(sub(p, "global_reduce"), mean))
    local = gelu(linear(sub(p, "local_reduce"), y))
    both = torch.cat([local, g.expand(local.shape)], -1)
    return (
        z
        * linear(sub(p, "channel_gate"), g).sigmoid()
        * linear(sub(p, "position_gate"), both).sigmoid()
    )


# ---------------------------------------------------------------- block


def aggregate(p, x_local, num_heads, grid, downsample, num_convs):
    """X_ga: the local features at the grid, attending to each other. `num_convs` None: stage 3."""
    if num_convs is not None and downsample == "stepwise":
        x_local = stepwise_downsample(sub(p, "downsample"), x_local, num_convs)
    if tuple(x_local.shape[1:3]) != tuple(grid):
        x_local = bilinear(x_local, grid)
    return self_attention(sub(p, "aggregate"), x_local.flatten(1, 2), num_heads)


def token_module(
    p,
    x,
    x_local,
    tokens,
    *,
    kind="position_aware",
    num_heads,
    grid=(7, 7),
    downsample="stepwise",
    num_convs=None,
    mlp="mlp",
    alpha=0.1,
):
    """X_global and the tokens for the next block, by the kind of global tokens."""

    def gathered():
        return aggregate(p, x_local, num_heads, grid, downsample, num_convs)

    new = None
    if kind == "none":
        source = gathered()
    elif kind == "position_aware":
        normed = layer_norm(sub(p, "norm"), tokens, NORM_EPS)
        mixed = {"mlp": token_mlp, "mix": token_mix_mlp}[mlp](sub(p, "mlp"), normed)
        source = new = alpha * mixed + (1 - alpha) * gathered()
    else:
        grid = (7, 7)  # of 'msa': its tokens form no grid, X_ga keeps the paper's
        read = {"normal": lambda: x_local.flatten(1, 2), "msa": gathered}[kind]()
        normed = layer_norm(sub(p, "norm"), tokens, NORM_EPS)
        source = new = linear(
            sub(p, "proj"), cross_attention(sub(p, "fuse"), normed, read, num_heads)
        )
    x_global = cross_attention(sub(p, "broadcast"), x.flatten(1, 2), source, num_heads)
    return x_global.reshape(x.shape), None if new is None else tokens + new


def block(p, x, tokens, *, num_heads, encoder="conv", **settings):
    """`encoder` None is stage 3: the normalised image tokens are the local features."""
    normed = layer_norm(sub(p, "norm1"), x, NORM_EPS)
    if encoder is None:
        x_local = normed
    elif encoder == "conv":
        x_local = conv_encoder(sub(p, "local_encoder"), normed)
    else:
        x_local = window_attention(sub(p, "local_encoder"), normed, num_heads)
    x_global, tokens = token_module(
        sub(p, "token_module"), normed, x_local, tokens, num_heads=num_heads, **settings
    )
    x = x + linear(sub(p, "proj"), x_local + x_global)
    y = ffn(sub(p, "ffn"), layer_norm(sub(p, "norm2"), x, NORM_EPS))
    return x + bidim(sub(p, "bidim"), y), tokens


# ---------------------------------------------------------------- models


def backbone(
    p,
    image,
    *,
    depths,
    num_heads,
    down_convs=(1, 0, None),
    has_encoder=(1, 1, 0),
    token_size=(7, 7),
    token_mlp="mlp",
    token_module="position_aware",
    local_encoder="conv",
    downsample="stepwise",
    alpha=0.1,
    out_indices=(0, 1, 2),
    norm="LN",
):
    """Image (B, 3, H, W) -> maps (B, C_i, H_i, W_i), BatchNorms in eval mode."""
    x = stem(sub(p, "stem"), image)
    tokens = None
    if token_module != "none":
        tokens = p["global_tokens"].flatten(1, 2).expand(len(image), -1, -1)
    outs = []
    for i in range(max(out_indices) + 1):
        stage = sub(p, f"stages.{i}")
        if i > 0:
            x = merging(sub(stage, "merging"), x)
            if tokens is not None:
                tokens = token_projection(sub(stage, "token_proj"), tokens)
        for j in range(depths[i]):
            x, tokens = block(
                sub(stage, f"blocks.{j}"),
                x,
                tokens,
                num_heads=num_heads[i],
                encoder=local_encoder if has_encoder[i] else None,
                kind=token_module,
                grid=token_size,
                downsample=downsample,
                num_convs=down_convs[i],
                mlp=token_mlp,
                alpha=alpha,
            )
        if i in out_indices:
            y = x
            if norm == "LN":
                y = layer_norm(sub(p, f"norm{i}"), y, NORM_EPS)
            y = to_bchw(y)
            outs.append(batch_norm(sub(p, f"norm{i}"), y) if norm == "BN" else y)
    return tuple(outs)


def cls_neck(p, feats):
    y = gelu(layer_norm(sub(p, "norm"), linear(sub(p, "fc"), to_bhwc(feats[-1])), HEAD_EPS))
    return y.sum((1, 2)) / (y.shape[1] * y.shape[2])


def nearest(x, size):
    """(B, C, H, W) -> (B, C, h, w): each new pixel copies the old one that it lies in."""
    rows = [i * x.shape[2] // size[0] for i in range(size[0])]
    cols = [j * x.shape[3] // size[1] for j in range(size[1])]
    return x[:, :, rows][:, :, :, cols]


def fpn(p, feats, num_outs=5):
    """Strides 4, 8, 16, 32 and then, by dropping every second row and column, 64, ..."""
    tops = [conv(sub(p, f"lateral_convs.{i}.conv"), x) for i, x in enumerate(feats)]
    for i in range(len(feats) - 1, 0, -1):
        tops[i - 1] = tops[i - 1] + nearest(tops[i], tops[i - 1].shape[2:])
    up = sub(p, "finest.0")  # each pixel becomes a 2x2 cell of its own
    finest = F.conv_transpose2d(tops[0], up["weight"], up["bias"], stride=2)
    outs = [conv(sub(p, "finest.1.conv"), finest)]
    outs += [conv(sub(p, f"fpn_convs.{i}.conv"), x) for i, x in enumerate(tops)]
    while len(outs) < num_outs:
        outs.append(outs[-1][:, :, ::2, ::2])
    return tuple(outs)


# ---------------------------------------------------------------- another token grid


def resize_matrix(old, new):
    """R (n', n): row r holds the weights with which new cell r reads the old cells."""
    matrix = torch.zeros(new[0] * new[1], old[0] * old[1], dtype=torch.float64)
    rows, cols = source_weights(old[0], new[0]), source_weights(old[1], new[1])
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            for y, wy in row:
                for z, wx in col:
                    matrix[i * new[1] + j, y * old[1] + z] += wy * wx
    return matrix / matrix.sum(1, keepdim=True)


def resize_checkpoint(p, old, new):
    """The parameters of a model with tokens on grid `old`, brought to grid `new`."""
    matrix = resize_matrix(old, new)
    ratio = (old[0] * old[1]) / (new[0] * new[1])
    out = dict(p)
    for name, value in p.items():
        if name.endswith("global_tokens"):
            out[name] = bilinear(value, new)
        elif name.endswith("token_mix.weight"):
            out[name] = (matrix @ value.double() @ matrix.T * ratio).to(value.dtype)
        elif name.endswith("token_mix.bias"):
            out[name] = (matrix @ value.double()).to(value.dtype)
    return out
