"""Layers against other implementations of them, and their properties.

Their values in the backbone are compared with `reference` in test_backbone.
"""

import pytest
import reference
import torch
import torch.nn.functional as F
from helpers import build, exact, rand, same
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from torchvision.models.convnext import CNBlock

from mmdualtoken.models.blocks import (
    BiDimAttention,
    ConvEncoder,
    DualTokenBlock,
    WindowAttention,
)
from mmdualtoken.models.stem import (
    OneStepDownsample,
    PatchMerging,
    StepwiseDownsample,
    resize_map,
    space_to_depth,
)
from mmdualtoken.models.tokens import (
    PositionAwareTokens,
    TokenMixMLP,
    resize_matrix,
    resize_token_mix,
    resize_tokens,
)

GRIDS = [((7, 7), (9, 9)), ((7, 7), (3, 5)), ((3, 5), (7, 7)), ((7, 7), (1, 1)), ((4, 6), (6, 4))]


def test_space_to_depth_order_and_border():
    x = torch.arange(1, 1 + 3 * 3 * 2).view(1, 3, 3, 2).double()
    out = space_to_depth(x)
    assert out.shape == (1, 2, 2, 8)
    assert out[0, 0, 0].tolist() == [1, 2, 3, 4, 7, 8, 9, 10]  # rows, columns, channels
    assert out[0, 0, 1].tolist() == [5, 6, 0, 0, 11, 12, 0, 0]
    assert out[0, 1, 0].tolist() == [13, 14, 15, 16, 0, 0, 0, 0]
    assert out[0, 1, 1].tolist() == [17, 18, 0, 0, 0, 0, 0, 0]


def test_border_zeros_never_win_the_maximum():
    merging = PatchMerging(4, 4).double()
    with torch.no_grad():
        merging.reduction.weight.zero_()
        merging.pool_proj.weight.copy_(torch.eye(4))
        x = -1 - rand(2, 5, 7, 4).abs()
        out = merging(x)
    assert out.max() <= -1  # an implicit zero would be larger than every value
    same(out[:, 2, 3], x[:, 4, 6])  # the corner cell has one real pixel
    same(out[:, 0, 3], torch.maximum(x[:, 0, 6], x[:, 1, 6]))


def test_even_maps_and_whole_windows_are_not_padded(monkeypatch):
    def pad(*args, **kwargs):
        raise AssertionError("padded")

    monkeypatch.setattr(F, "pad", pad)
    model = build(local_encoder="window")
    assert model(rand(1, 3, 448, 448, dtype=torch.float32))[0].shape[2:] == (56, 56)
    with pytest.raises(AssertionError, match="padded"):  # so this test sees padding where it is
        model(rand(1, 3, 440, 448, dtype=torch.float32))


def test_conv_encoder_is_torchvisions_convnext_block():
    encoder, p = exact(ConvEncoder(12, 7))
    block = CNBlock(12, layer_scale=1e-6, stochastic_depth_prob=0.0).double().eval()
    names = {"dwconv": "0", "norm": "2", "pwconv1": "3", "pwconv2": "5"}
    state = {"layer_scale": p["gamma"].view(12, 1, 1)}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            state[f"block.{theirs}.{kind}"] = p[f"{ours}.{kind}"]
    block.load_state_dict(state)
    x = rand(2, 9, 8, 12)
    same(encoder(x), block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def test_window_attention_in_one_window_is_torchs_attention():
    layer, p = exact(WindowAttention(12, 3, window_size=4))
    mha = nn.MultiheadAttention(12, 3, batch_first=True).double()
    mha.load_state_dict(
        {
            "in_proj_weight": p["qkv.weight"],
            "in_proj_bias": p["qkv.bias"],
            "out_proj.weight": p["proj.weight"],
            "out_proj.bias": p["proj.bias"],
        }
    )
    cells = [(i, j) for i in range(4) for j in range(4)]
    table = p["relative_position_bias_table"].view(7, 7, 3)
    bias = torch.stack([table[a - c + 3, b - d + 3] for a, b in cells for c, d in cells])
    bias = bias.view(16, 16, 3).permute(2, 0, 1)  # heads, 16, 16
    x = rand(2, 4, 4, 12)
    tokens = x.flatten(1, 2)
    out, _ = mha(tokens, tokens, tokens, attn_mask=bias.repeat(2, 1, 1))
    same(layer(x), out.view(2, 4, 4, 12))


def test_border_cells_are_means_of_real_pixels_only():
    down = StepwiseDownsample(1, 0).double()
    x = torch.arange(1.0, 16.0).view(1, 3, 5, 1).double()
    same(down(x)[0, ..., 0], torch.tensor([[4.0, 6.0, 7.5], [11.5, 13.5, 15.0]]).double())


@pytest.mark.parametrize(
    ("old", "new"), [((1, 1), (3, 5)), ((5, 13), (7, 7)), ((28, 28), (7, 7)), ((7, 14), (7, 7))]
)
def test_resize_map(old, new):
    """28x28 to 7x7 reads four pixels only: no antialiasing."""
    x = OneStepDownsample()(rand(2, *old, 4))  # which leaves all to the resize
    same(resize_map(x, new), reference.bilinear(x, new))
    assert resize_map(x, old) is x


class Adapted(nn.Linear):
    """Adds to what its weights give, as LoRA does."""

    def forward(self, x):
        return super().forward(x) + x.sum(-1, keepdim=True)


def adapted(linear):
    new = Adapted(linear.in_features, linear.out_features)
    new.load_state_dict(linear.state_dict())
    return new.to(linear.weight.dtype)


def hooked(linear):
    linear.register_forward_hook(lambda module, inputs, out: 3 * out)
    return linear


def pruned(linear):
    return l1_unstructured(linear, "weight", amount=0.5)


@pytest.mark.parametrize("change", [adapted, hooked, pruned])
def test_what_is_put_in_the_place_of_a_linear_is_called(change):
    """A formula that reads weights for speed does so of plain Linears alone."""
    mix, gates = exact(TokenMixMLP(12, 15))[0], exact(BiDimAttention(12))[0]
    tokens, z = rand(2, 15, 12), rand(2, 3, 5, 12)
    before = mix(tokens), gates(z)
    mix.token_mix = change(mix.token_mix)
    gates.position_gate = change(gates.position_gate)
    if change is pruned:  # the hook recomputes it: the old value is outdated
        mix.token_mix.weight = gates.position_gate.weight = None
    mixed = mix.token_mix(tokens.transpose(1, 2)).transpose(1, 2)
    same(mix(tokens), mix.channel_mix(mix.act(mixed)))
    y = gates.norm(z)
    g = gates.act(gates.global_reduce(y.mean((1, 2), keepdim=True)))
    loc = gates.act(gates.local_reduce(y))
    position = gates.position_gate(torch.cat([loc, g.expand_as(loc)], dim=-1))
    same(gates(z), z * gates.channel_gate(g).sigmoid() * position.sigmoid())
    assert not torch.allclose(mix(tokens), before[0]) and not torch.allclose(gates(z), before[1])


def test_drop_path_drops_each_branch_of_each_sample_by_itself():
    token_module = PositionAwareTokens(12, 3, (7, 7), nn.Identity(), TokenMixMLP, 0.1)
    block, _ = exact(DualTokenBlock(12, ConvEncoder(12, 5), token_module, 4, 0.5))
    x, tokens = rand(1, 4, 4, 12), rand(1, 49, 12, seed=2)
    torch.manual_seed(0)
    with torch.no_grad():
        out, _ = block.train()(x.expand(32, -1, -1, -1), tokens.expand(32, -1, -1))
        # The two branches, each dropped or doubled (1 / keep probability).
        x_hat = block.norm1(x)
        x_local = block.local_encoder(x_hat)
        first = block.proj(x_local + block.token_module(x_hat, x_local, tokens)[0])
        choices = []
        for scale in (0, 2):
            y = x + scale * first
            choices += [y, y + 2 * block.bidim(block.ffn(block.norm2(y)))]
    drawn = [[torch.allclose(sample, choice[0], atol=1e-9) for choice in choices] for sample in out]
    assert all(sum(row) == 1 for row in drawn)
    assert all(any(row[i] for row in drawn) for i in range(4))


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resizing_of_tokens(old, new):
    """The formula; constant W and b map constant tokens to one value, the same as before."""
    same(resize_matrix(old, new), reference.resize_matrix(old, new))
    tokens = rand(1, *old, 6)
    same(resize_tokens(tokens, new), reference.bilinear(tokens, new))
    n, n_new = old[0] * old[1], new[0] * new[1]
    weight, bias = rand(n, n), rand(n, seed=1)
    state = {"a.token_mix.weight": weight, "a.token_mix.bias": bias}
    expected = reference.resize_checkpoint(state, old, new)
    for name, value in zip(state, resize_token_mix(weight, bias, old, new), strict=True):
        same(value, expected[name])
    weight, bias = torch.full((n, n), 0.3).double(), torch.full((n,), -0.2).double()
    before = weight @ torch.full((n,), 1.7).double() + bias
    weight, bias = resize_token_mix(weight, bias, old, new)
    after = weight @ torch.full((n_new,), 1.7).double() + bias
    same(after, before[:1].expand(n_new))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_resize_to_the_same_grid_is_the_identity(dtype):
    weight, bias, tokens = (rand(*s, dtype=dtype) for s in [(15, 15), (15,), (1, 3, 5, 6)])
    new_weight, new_bias = resize_token_mix(weight, bias, (3, 5), (3, 5))
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)
    assert torch.equal(resize_tokens(tokens, (3, 5)), tokens)
