"""Each layer against the plain reading of the formulas in `reference`, and its properties."""

import pytest
import reference
import torch
import torch.nn.functional as F
from helpers import build, exact, rand, same
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from torchvision.models.convnext import CNBlock

from mmdualtoken.models.blocks import (
    FFN,
    BiDimAttention,
    ConvEncoder,
    CrossAttention,
    DualTokenBlock,
    SelfAttention,
    WindowAttention,
)
from mmdualtoken.models.dualtoken_vit import factory
from mmdualtoken.models.stem import (
    OneStepDownsample,
    PatchMerging,
    Stem,
    StepwiseDownsample,
    TokenProjection,
    resize_map,
    space_to_depth,
)
from mmdualtoken.models.tokens import (
    MSATokens,
    NormalTokens,
    NoTokens,
    PositionAwareTokens,
    TokenMixMLP,
    TokenMLP,
    resize_matrix,
    resize_token_mix,
    resize_tokens,
)

MAPS = [(8, 8), (7, 9), (9, 4), (4, 9), (1, 1), (1, 6), (5, 1)]  # even, odd, single rows
GRIDS = [((7, 7), (9, 9)), ((7, 7), (3, 5)), ((3, 5), (7, 7)), ((7, 7), (1, 1)), ((4, 6), (6, 4))]


@pytest.fixture
def forbid_padding(monkeypatch):
    def pad(*args, **kwargs):
        raise AssertionError("padded")

    monkeypatch.setattr(F, "pad", pad)


# ---------------------------------------------------------------- stem


@pytest.mark.parametrize("size", [(64, 64), (16, 24), (31, 33), (8, 8), (3, 1)])
def test_stem(size):
    stem, p = exact(Stem(3, 16))
    image = rand(2, 3, *size)
    out = stem(image)
    assert out.shape == (2, -(-size[0] // 8), -(-size[1] // 8), 16)
    same(out, reference.stem(p, image))


def test_stem_in_training_uses_the_statistics_of_the_batch():
    stem, p = exact(Stem(3, 16))
    image = rand(2, 3, 32, 24)
    same(stem.train()(image), reference.stem(p, image, training=True))


def test_stem_takes_other_channels():
    stem, p = exact(Stem(5, 16))
    image = rand(1, 5, 16, 16)
    same(stem(image), reference.stem(p, image))


# ---------------------------------------------------------------- merging


@pytest.mark.parametrize("size", MAPS)
def test_patch_merging(size):
    merging, p = exact(PatchMerging(6, 10))
    x = rand(2, *size, 6)
    same(merging(x), reference.merging(p, x))


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


def test_even_maps_are_not_padded(forbid_padding):
    merging = PatchMerging(4, 6).double()
    assert merging(rand(1, 4, 6, 4)).shape == (1, 2, 3, 6)
    with pytest.raises(AssertionError, match="padded"):  # so this test sees padding where it is
        merging(rand(1, 5, 6, 4))


def test_backbone_without_padding_where_every_map_is_even(forbid_padding):
    model = build()
    assert [o.shape[-1] for o in model(rand(1, 3, 64, 64, dtype=torch.float32))] == [8, 4, 2]


def test_token_projection():
    proj, p = exact(TokenProjection(6, 10))
    tokens = rand(2, 15, 6)
    same(proj(tokens), reference.token_projection(p, tokens))


# ---------------------------------------------------------------- Conv Encoder


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("kernel_size", [5, 7])
def test_conv_encoder(kernel_size, size):
    encoder, p = exact(ConvEncoder(12, kernel_size))
    x = rand(2, *size, 12)
    same(encoder(x), reference.conv_encoder(p, x))


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


# ---------------------------------------------------------------- window attention


@pytest.mark.parametrize("size", [(7, 7), (14, 7), (8, 8), (3, 5), (15, 9), (1, 1)])
def test_window_attention(size):
    layer, p = exact(WindowAttention(12, 3))
    x = rand(2, *size, 12)
    same(layer(x), reference.window_attention(p, x, 3))


def test_window_attention_of_another_window():
    layer, p = exact(WindowAttention(12, 2, window_size=4))
    x = rand(2, 9, 6, 12)
    same(layer(x), reference.window_attention(p, x, 2, side=4))


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
    bias = torch.stack(
        [
            torch.stack(
                [p["relative_position_bias_table"][(a - c + 3) * 7 + b - d + 3] for c, d in cells]
            )
            for a, b in cells
        ]
    ).permute(2, 0, 1)  # heads, 16, 16
    x = rand(2, 4, 4, 12)
    tokens = x.flatten(1, 2)
    out, _ = mha(tokens, tokens, tokens, attn_mask=bias.repeat(2, 1, 1))
    same(layer(x), out.view(2, 4, 4, 12))


def test_what_is_padded_does_not_matter(monkeypatch):
    """Padded keys are masked: any content in them gives the same result."""
    layer, p = exact(WindowAttention(12, 3))
    pad, filled = F.pad, []

    def pad_with_garbage(x, widths, *args, **kwargs):
        if x.shape[-1] == 36:  # q, k, v, not the mask of real cells
            filled.append(widths)
            return pad(x, widths, value=37.0)
        return pad(x, widths, *args, **kwargs)

    x = rand(2, 9, 5, 12)
    plain = layer(x)
    monkeypatch.setattr(F, "pad", pad_with_garbage)
    same(layer(x), plain)
    assert filled
    same(plain, reference.window_attention(p, x, 3))


def test_windows_do_not_see_each_other():
    layer, _ = exact(WindowAttention(12, 3))
    x = rand(1, 10, 10, 12).requires_grad_()
    layer(x)[:, 7:, 7:].sum().backward()  # the corner window has 3x3 real cells
    seen = x.grad.abs().sum((0, 3)) > 0
    assert seen[7:, 7:].all()
    assert seen.sum() == 9


def test_windows_that_fit_are_not_padded(forbid_padding):
    layer, p = exact(WindowAttention(12, 3))
    x = rand(1, 7, 14, 12)
    same(layer(x), reference.window_attention(p, x, 3))


# ---------------------------------------------------------------- downsampling


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("num_convs", [0, 1, 2])
def test_stepwise_downsample(num_convs, size):
    down, p = exact(StepwiseDownsample(6, num_convs))
    x = rand(2, *size, 6)
    out = down(x)
    factor = 2 ** (num_convs + 1)
    assert out.shape == (2, -(-size[0] // factor), -(-size[1] // factor), 6)
    same(out, reference.stepwise_downsample(p, x, num_convs))


def test_border_cells_are_means_of_real_pixels_only():
    down = StepwiseDownsample(1, 0).double()
    x = torch.arange(1.0, 16.0).view(1, 3, 5, 1).double()
    same(down(x)[0, ..., 0], torch.tensor([[4.0, 6.0, 7.5], [11.5, 13.5, 15.0]]).double())


def test_onestep_leaves_the_map_to_the_resize():
    down = OneStepDownsample()
    x = rand(2, 5, 4, 6)
    assert torch.equal(down(x), x)
    assert not list(down.parameters())


@pytest.mark.parametrize("new", [(7, 7), (3, 5)])
@pytest.mark.parametrize("old", [(8, 8), (2, 2), (1, 1), (5, 13), (28, 28), (7, 14)])
def test_resize_map(old, new):
    """28x28 to 7x7 reads four pixels only: no antialiasing."""
    x = rand(2, *old, 4)
    same(resize_map(x, new), reference.bilinear(x, new))


def test_resize_map_keeps_a_map_of_the_right_size():
    x = rand(2, 7, 5, 4)
    assert resize_map(x, (7, 5)) is x


# ---------------------------------------------------------------- attention, MLPs, FFN, BiDim


@pytest.mark.parametrize("num_heads", [1, 3, 6])
def test_self_attention(num_heads):
    layer, p = exact(SelfAttention(12, num_heads))
    x = rand(2, 11, 12)
    out = layer(x)
    same(out, reference.self_attention(p, x, num_heads))
    same(out, _torch_attention(p["qkv.weight"], p["qkv.bias"], num_heads, x, x))


@pytest.mark.parametrize("num_heads", [1, 3, 6])
def test_cross_attention(num_heads):
    layer, p = exact(CrossAttention(12, num_heads))
    x, context = rand(2, 11, 12), rand(2, 5, 12, seed=1)
    out = layer(x, context)
    same(out, reference.cross_attention(p, x, context, num_heads))
    weight = torch.cat([p["q.weight"], p["kv.weight"]])
    bias = torch.cat([p["q.bias"], p["kv.bias"]])
    same(out, _torch_attention(weight, bias, num_heads, x, context))


def _torch_attention(weight, bias, num_heads, x, context):
    """torch's attention with the identity for its output projection, which the layers lack."""
    dim = x.shape[-1]
    mha = nn.MultiheadAttention(dim, num_heads, batch_first=True).double()
    mha.load_state_dict(
        {
            "in_proj_weight": weight,
            "in_proj_bias": bias,
            "out_proj.weight": torch.eye(dim),
            "out_proj.bias": torch.zeros(dim),
        }
    )
    return mha(x, context, context)[0].detach()


def test_token_mlp():
    layer, p = exact(TokenMLP(12))
    tokens = rand(2, 15, 12)
    same(layer(tokens), reference.token_mlp(p, tokens))


def test_token_mix_mlp():
    layer, p = exact(TokenMixMLP(12, 15))
    tokens = rand(2, 15, 12)
    same(layer(tokens), reference.token_mix_mlp(p, tokens))


@pytest.mark.parametrize("ratio", [8, 4, 1.5])
def test_ffn(ratio):
    layer, p = exact(FFN(12, ratio))
    assert p["fc1.weight"].shape == (12 * ratio, 12)
    x = rand(2, 3, 5, 12)
    same(layer(x), reference.ffn(p, x))


@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_bidim_attention(size):
    layer, p = exact(BiDimAttention(12))
    z = rand(2, *size, 12)
    same(layer(z), reference.bidim(p, z))


class Adapted(nn.Linear):
    """Adds to what its weights give, as LoRA does."""

    def forward(self, x):
        return super().forward(x) + x.sum(-1, keepdim=True)


class Doubling(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


def adapted(linear):
    new = Adapted(linear.in_features, linear.out_features)
    new.load_state_dict(linear.state_dict())
    return new.to(linear.weight.dtype)


def parametrised(linear):
    nn.utils.parametrize.register_parametrization(linear, "weight", Doubling())
    return linear


def hooked(linear):
    linear.register_forward_hook(lambda module, inputs, out: 3 * out)
    return linear


def pruned(linear):
    return l1_unstructured(linear, "weight", amount=0.5)


@pytest.mark.parametrize("change", [adapted, parametrised, hooked, pruned])
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


def test_bidim_gates_by_channel_and_by_position():
    """Each gate alone: with the other's logits at zero it is one half everywhere."""
    layer, _ = exact(BiDimAttention(12))
    z = rand(2, 3, 5, 12)
    with torch.no_grad():
        layer.position_gate.weight.zero_()
        layer.position_gate.bias.zero_()
        gate = layer(z) / z
        same(gate, gate[:, :1, :1].expand(gate.shape))  # one gate per channel
        assert gate[0, 0, 0].std() > 1e-3
    layer, _ = exact(BiDimAttention(12))
    with torch.no_grad():
        layer.channel_gate.weight.zero_()
        layer.channel_gate.bias.zero_()
        gate = layer(z) / z
        same(gate, gate[..., :1].expand(gate.shape))  # one gate per position
        assert gate[0, ..., 0].std() > 1e-3


# ---------------------------------------------------------------- token modules and the block

KINDS = {
    "position_aware": PositionAwareTokens,
    "none": NoTokens,
    "normal": NormalTokens,
    "msa": MSATokens,
}


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 9), (1, 1), (40, 32)])
@pytest.mark.parametrize("num_convs", [1, 0, None])
@pytest.mark.parametrize("kind", KINDS)
def test_token_module(kind, num_convs, size):
    down = nn.Identity() if num_convs is None else StepwiseDownsample(12, num_convs)
    grid = {"position_aware": (3, 5), "none": (7, 7)}.get(kind, (1, 8))
    module, p = exact(factory(KINDS[kind])(12, 3, grid, down, TokenMLP.for_block, 0.1))
    x, x_local = rand(2, *size, 12), rand(2, *size, 12, seed=1)
    tokens = None if kind == "none" else rand(2, grid[0] * grid[1], 12, seed=2)
    x_global, passed = module(x, x_local, tokens)
    expected, expected_tokens = reference.token_module(
        p, x, x_local, tokens, kind=kind, num_heads=3, grid=grid, num_convs=num_convs
    )
    same(x_global, expected)
    if kind == "none":
        assert passed is None
    else:
        same(passed, expected_tokens)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("mlp", ["mlp", "mix"])
def test_alpha_weighs_the_global_tokens(mlp, alpha):
    layer = {"mlp": TokenMLP.for_block, "mix": TokenMixMLP}[mlp]
    module, p = exact(PositionAwareTokens(12, 3, (3, 5), nn.Identity(), layer, alpha))
    x, x_local, tokens = rand(2, 4, 4, 12), rand(2, 3, 5, 12, seed=1), rand(2, 15, 12, seed=2)
    x_global, passed = module(x, x_local, tokens)
    settings = dict(num_heads=3, grid=(3, 5), mlp=mlp, alpha=alpha)
    expected, expected_tokens = reference.token_module(p, x, x_local, tokens, **settings)
    same(x_global, expected)
    same(passed, expected_tokens)
    if alpha in (0, 1):  # then only one of the two sources is in the result
        changed, _ = module(
            x,
            x_local + 1 if alpha else x_local,
            tokens * 2 + rand(2, 15, 12) if not alpha else tokens,
        )
        same(changed, x_global)


def _block(encoder, kind, num_convs, drop_path_rate=0.0):
    local = {
        "conv": lambda: ConvEncoder(12, 5),
        "window": lambda: WindowAttention(12, 3),
        None: nn.Identity,
    }[encoder]()
    down = nn.Identity() if encoder is None else StepwiseDownsample(12, num_convs)
    grid = (7, 7) if kind in ("position_aware", "none") else (1, 8)
    module = factory(KINDS[kind])(12, 3, grid, down, TokenMixMLP, 0.1)
    block, p = exact(DualTokenBlock(12, local, module, 4, drop_path_rate))
    tokens = None if kind == "none" else rand(1, grid[0] * grid[1], 12, seed=2)
    return block, p, tokens


@pytest.mark.parametrize("size", [(8, 8), (5, 9)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ["conv", "window", None])
def test_block(encoder, kind, size):
    block, p, tokens = _block(encoder, kind, 1)
    x = rand(2, *size, 12)
    tokens = None if tokens is None else tokens.expand(2, -1, -1)
    out, passed = block(x, tokens)
    expected, expected_tokens = reference.block(
        p,
        x,
        tokens,
        num_heads=3,
        encoder=encoder,
        kind=kind,
        mlp="mix",
        num_convs=None if encoder is None else 1,
    )
    same(out, expected)
    if tokens is not None:
        same(passed, expected_tokens)


def test_drop_path_drops_each_branch_of_each_sample_by_itself():
    block, p, tokens = _block("conv", "position_aware", 1, drop_path_rate=0.5)
    x = rand(1, 4, 4, 12).expand(32, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        out, _ = block.train()(x, tokens.expand(32, -1, -1))
        # The two branches by the reference, each dropped or doubled (1 / keep probability).
        normed = reference.layer_norm(reference.sub(p, "norm1"), x[:1], 1e-6)
        x_local = reference.conv_encoder(reference.sub(p, "local_encoder"), normed)
        x_global, _ = reference.token_module(
            reference.sub(p, "token_module"),
            normed,
            x_local,
            tokens,
            num_heads=3,
            num_convs=1,
            mlp="mix",
        )
        first = reference.linear(reference.sub(p, "proj"), x_local + x_global)
        choices = []
        for scale in (0, 2):
            y = x[:1] + scale * first
            z = reference.layer_norm(reference.sub(p, "norm2"), y, 1e-6)
            z = reference.bidim(
                reference.sub(p, "bidim"), reference.ffn(reference.sub(p, "ffn"), z)
            )
            choices += [y, y + 2 * z]
    drawn = [[torch.allclose(sample, choice[0], atol=1e-9) for choice in choices] for sample in out]
    assert all(sum(row) == 1 for row in drawn)
    assert all(any(row[i] for row in drawn) for i in range(4))


# ---------------------------------------------------------------- resizing of learned tokens


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resize_matrix(old, new):
    matrix = resize_matrix(old, new)
    same(matrix, reference.resize_matrix(old, new))
    same(matrix.sum(1), torch.ones(new[0] * new[1], dtype=torch.float64))


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resize_tokens(old, new):
    tokens = rand(1, *old, 6)
    same(resize_tokens(tokens, new), reference.bilinear(tokens, new))


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_resize_token_mix(old, new):
    n = old[0] * old[1]
    weight, bias = rand(n, n), rand(n, seed=1)
    expected = reference.resize_checkpoint(
        {"a.token_mix.weight": weight, "a.token_mix.bias": bias}, old, new
    )
    new_weight, new_bias = resize_token_mix(weight, bias, old, new)
    same(new_weight, expected["a.token_mix.weight"])
    same(new_bias, expected["a.token_mix.bias"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_resize_to_the_same_grid_is_the_identity(dtype):
    weight, bias, tokens = (rand(*s, dtype=dtype) for s in [(15, 15), (15,), (1, 3, 5, 6)])
    new_weight, new_bias = resize_token_mix(weight, bias, (3, 5), (3, 5))
    assert torch.equal(new_weight, weight)
    assert torch.equal(new_bias, bias)
    assert torch.equal(resize_tokens(tokens, (3, 5)), tokens)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_constant_tokens_stay_constant(old, new):
    """Constant W and b map constant tokens to one value, the same before and after."""
    n, n_new = old[0] * old[1], new[0] * new[1]
    weight, bias = torch.full((n, n), 0.3).double(), torch.full((n,), -0.2).double()
    before = weight @ torch.full((n,), 1.7).double() + bias
    weight, bias = resize_token_mix(weight, bias, old, new)
    after = weight @ torch.full((n_new,), 1.7).double() + bias
    same(after, before[:1].expand(n_new))
