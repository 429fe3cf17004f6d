"""The backbone against the plain reading of the formulas in `reference`, and its behaviour."""

import copy

import pytest
import reference
import torch
from helpers import (
    VARIANTS,
    build,
    exact,
    log_lines,
    params,
    rand,
    randomise,
    run_reference,
    same,
)
from mmcv.cnn.bricks import DropPath
from mmengine.runner import load_state_dict as mmengine_load
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdualtoken.models.blocks import WindowAttention
from mmdualtoken.models.stem import OneStepDownsample
from mmdualtoken.models.tokens import NoTokens, TokenMixMLP

BIG = ("tiny-mlp", "small-mix")


def maps(size, indices=(0, 1, 2)):
    return [tuple(-(-n // (8 << i)) for n in size) for i in indices]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("variant", "size"),
    [(v, (37, 53)) for v in VARIANTS]
    # Even maps and whole windows, one pixel, maps of one row or column, grids that are not resized.
    + [("mix", (64, 64)), ("window", (56, 112)), ("window-onestep-msa", (65, 120))]
    + [("mlp", (1, 1)), ("none", (8, 131)), ("normal", (97, 8)), ("mix", (224, 224))],
)
def test_values(variant, size):
    settings = VARIANTS[variant]
    model, p = exact(build(**settings))
    image = rand(1 if variant in BIG else 2, 3, *size)
    with torch.no_grad():
        outs = model(image)
    expected = run_reference(p, image, **settings)
    assert isinstance(outs, tuple) and len(outs) == len(expected)
    assert [o.shape[2:] for o in outs] == maps(size, settings.get("out_indices", (0, 1, 2)))
    same(outs, expected)


def test_channels_of_the_image():
    model, p = exact(build(in_channels=1))
    image = rand(1, 1, 32, 32)
    before = image.clone()
    same(model(image), run_reference(p, image))
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("setting", "name", "kind"),
    [
        ("token_mlp", "mix", TokenMixMLP),
        ("token_module", "none", NoTokens),
        ("local_encoder", "window", WindowAttention),
        ("downsample", "onestep", OneStepDownsample),
    ],
)
def test_a_class_does_what_its_name_does(setting, name, kind):
    class Derived(kind):
        """A class of the user's."""

    named, p = exact(build(**{setting: name}))
    given = build(**{setting: Derived}).double().eval()
    given.load_state_dict(p)
    assert any(isinstance(module, Derived) for module in given.modules())
    image = rand(1, 3, 40, 40)
    for out, expected in zip(given(image), named(image), strict=True):
        assert torch.equal(out, expected)


# ---------------------------------------------------------------- gradients


def _attention_without_collapse(model):
    """Make queries and keys of the aggregation similar: each cell attends to itself most.

    With arbitrary weights repeated averaging makes the 49 cells all but equal, and with equal keys
    the queries have no gradient.
    """
    with torch.no_grad():
        for name, value in model.named_parameters():
            c = value.shape[-1]
            if name.endswith("aggregate.qkv.weight"):
                value[: 2 * c] += 4 * torch.eye(c).repeat(2, 1)
            elif name.endswith("fuse.q.weight"):
                value *= 4
            elif name.endswith("fuse.kv.weight"):
                value[:c] *= 4
    return model


def _key_bias(name, value):
    """The slice of `value` that is the bias of attention keys, None where it has none.

    Softmax does not change when all logits of a query change by the same q * b, so the gradient of
    this bias is zero by mathematics.
    """
    if name.endswith("qkv.bias"):
        c = len(value) // 3
        return slice(c, 2 * c)
    if name.endswith("kv.bias"):
        return slice(0, len(value) // 2)
    return None


def _unreached(name, shape, stage_map=(8, 4, 2)):
    """Entries that no pair of cells of a 64x64 image's maps reads: their gradient is exactly 0."""
    none = torch.zeros(shape, dtype=torch.bool)
    if not name.startswith("stages"):
        return none
    reach = stage_map[int(name.split(".")[1])] - 1  # largest distance of two cells
    if name.endswith("relative_position_bias_table"):
        far = torch.arange(-6, 7).abs() > reach
        return (far[:, None] | far).flatten()[:, None].expand(shape)
    if name.endswith("dwconv.weight"):
        far = (torch.arange(shape[-1]) - shape[-1] // 2).abs() > reach
        return (far[:, None] | far).expand(shape)
    return none


@pytest.mark.parametrize(
    "variant",
    ["mlp-3x5", "mix", "none", "normal", "msa", "window", "onestep", "encoder-everywhere"],
)
def test_every_parameter_gets_a_gradient(variant):
    settings = VARIANTS[variant]
    model = _attention_without_collapse(randomise(build(**settings).double())).train()
    outs = model(rand(2, 3, 64, 64))
    sum((o * rand(*o.shape, seed=i)).sum() for i, o in enumerate(outs)).backward()

    largest = {}
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        grad = value.grad
        assert grad.isfinite().all(), name
        keys = _key_bias(name, value)
        expected = ~_unreached(name, grad.shape)
        if keys is not None:
            assert grad[keys].abs().max() < 1e-11, name
            expected[keys] = False
        # Every entry counts, so a head or a channel cut off would show as well.
        assert (grad[expected] != 0).all(), name
        assert (grad[~expected].abs() < 1e-11).all(), name
        largest[name] = grad[expected].abs().max().item()
    typical = sorted(largest.values())[len(largest) // 2]
    assert typical > 1e-2
    name = min(largest, key=largest.get)
    assert largest[name] > 1e-6 * typical, (name, largest[name])


# ---------------------------------------------------------------- outputs and their norms


@pytest.mark.parametrize("variant", ["mix", "msa", "window"])
def test_gradients_of_each_image_by_vmap(variant):
    model, p = exact(build(**VARIANTS[variant]))
    images = rand(3, 3, 40, 33)
    buffers = dict(model.named_buffers())

    def loss(weights, image):
        return torch.func.functional_call(model, (weights, buffers), (image[None],))[-1].sum()

    weights = {name: p[name] for name in dict(model.named_parameters())}
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, images)
    for i, image in enumerate(images):
        model.zero_grad()
        model(image[None])[-1].sum().backward()
        for name, value in model.named_parameters():
            if value.grad is not None:  # norm0 and norm1 have none
                torch.testing.assert_close(found[name][i], value.grad, rtol=1e-8, atol=1e-8)


def test_second_and_forward_derivatives_by_plain_attention():
    """As docs/troubleshooting.md says."""
    model, _ = exact(build(token_mlp="mix"))
    image, change, step = rand(1, 3, 40, 33), rand(1, 3, 40, 33, seed=1), 1e-5

    def slope(image):
        (gradient,) = torch.autograd.grad(model(image)[2].sin().sum(), image, create_graph=True)
        return gradient

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, forward = torch.func.jvp(lambda x: model(x)[2], (image,), (change,))
        places = [(image + side * step * change).requires_grad_() for side in (1, -1, 0)]
        above, below, here = map(slope, places)
        (second,) = torch.autograd.grad((here * change).sum(), places[2])
    difference = model(places[0])[2] - model(places[1])[2]
    torch.testing.assert_close(forward, difference / (2 * step), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(second, (above - below) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("indices", [(0,), (1, 2), [0, 2]])
def test_a_part_has_the_parts_and_maps_of_the_whole(indices):
    full, p = exact(build(token_mlp="mix"))
    part = build(token_mlp="mix", out_indices=indices).double().eval()
    names = {n for n in p if not n.startswith(("stages", "norm"))}
    names |= {n for n in p for i in range(indices[-1] + 1) if n.startswith(f"stages.{i}.")}
    names |= {n for n in p for i in indices if n.startswith(f"norm{i}.")}
    assert set(params(part)) == names
    part.load_state_dict({n: p[n] for n in names})
    image = rand(1, 3, 40, 40)
    expected = full(image)
    for i, out in zip(indices, part(image), strict=True):
        same(out, expected[i])


def test_batch_norm_of_the_outputs_trains():
    model = build(out_norm_cfg=dict(type="BN"), norm_eval=True).double().train()
    assert all(isinstance(getattr(model, f"norm{i}"), nn.BatchNorm2d) for i in range(3))
    for out in model(rand(2, 3, 64, 64)):  # statistics of this batch: norm_eval is the stem's
        same(out.mean((0, 2, 3)), torch.zeros_like(out[0, :, 0, 0]))
    assert model.norm0.running_mean.abs().max() > 0


# ---------------------------------------------------------------- modes: training, frozen, cp


def _stem_norms(model):
    return [m for m in model.stem.modules() if isinstance(m, _BatchNorm)]


def test_norm_eval_keeps_the_stem_norms_in_eval():
    model, p = exact(build(norm_eval=True))
    assert model.train() is model
    assert model.training
    assert len(_stem_norms(model)) == 4
    assert not any(m.training for m in _stem_norms(model))
    others = [m for m in model.modules() if m not in _stem_norms(model)]
    assert all(m.training for m in others)
    image = rand(2, 3, 32, 32)
    same(model(image), run_reference(p, image))  # running statistics, although in training mode
    for name, value in params(model).items():
        assert torch.equal(value, p[name]), name
    assert model.eval() is model
    assert not any(m.training for m in model.modules())


@pytest.mark.parametrize(
    ("frozen", "variant"), [(-1, "mix"), (0, "none"), (1, "mix"), (2, "norm-bn"), (3, "none")]
)
def test_frozen_stages(frozen, variant):
    model = build(frozen_stages=frozen, drop_path_rate=0.5, **VARIANTS[variant])
    prefixes = []
    if frozen >= 0:
        prefixes += ["stem."]
    if frozen >= 1:
        prefixes += ["global_tokens", *[f"stages.{i}." for i in range(frozen)]]
    for name, value in model.named_parameters():
        assert value.requires_grad == (not name.startswith(tuple(prefixes))), name

    before = params(model)
    assert model.train() is model
    for name, module in model.named_modules():
        is_frozen = name != "" and f"{name}.".startswith(tuple(prefixes))
        assert module.training == (not is_frozen), name
    outs = model(rand(2, 3, 32, 32, dtype=torch.float32))
    sum(o.square().sum() for o in outs).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    after = params(model)
    for name, value in before.items():  # statistics too, the buffers of the frozen parts
        if prefixes and name.startswith(tuple(prefixes)):
            assert torch.equal(after[name], value), name
    trained = {n for n in before if not torch.equal(after[n], before[n])}
    assert "norm2.bias" in trained
    assert any(n.endswith("running_mean") for n in trained if n.startswith("stem")) == (frozen < 0)


def test_frozen_stages_beyond_those_built():
    model = build(frozen_stages=3, out_indices=(0,))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "norm0.weight",
        "norm0.bias",
    }


@pytest.mark.parametrize("variant", ["mix", "none", "msa"])
def test_with_cp_gives_the_same_gradients(variant):
    """Each of the 5 blocks runs again in the backward pass, with the same drops."""
    plain = randomise(build(drop_path_rate=0.5, **VARIANTS[variant]).double()).train()
    saving = build(drop_path_rate=0.5, with_cp=True, **VARIANTS[variant]).double().train()
    saving.load_state_dict(plain.state_dict())
    calls = []
    for model in (plain, saving):
        count = []
        for stage in model.stages:
            for block in stage.blocks:
                block.register_forward_pre_hook(lambda *_, n=count: n.append(1))
        torch.manual_seed(3)
        sum((o * rand(*o.shape)).sum() for o in model(rand(4, 3, 40, 40))).backward()
        calls.append(len(count))
    assert calls == [5, 10]
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-9, msg=name)


def _drop_rates(model):
    return [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0
        for stage in model.stages
        for block in stage.blocks
    ]


def test_drop_path_rises_linearly_from_zero_over_the_whole():
    rates = _drop_rates(build(arch="tiny", drop_path_rate=0.3))
    assert rates == pytest.approx([0.3 * i / 11 for i in range(12)], abs=1e-7)
    part = _drop_rates(build(drop_path_rate=0.4, out_indices=(1,)))
    assert part == pytest.approx([0, 0.1, 0.2], abs=1e-7)
    assert set(_drop_rates(build())) == {0.0}


# ---------------------------------------------------------------- checkpoints of another grid


@pytest.mark.parametrize(
    ("as_part", "mlp", "new"),
    [(False, "mlp", (9, 9)), (False, "mix", (7, 7)), (True, "mix", (3, 5))],
)
def test_checkpoint_of_another_token_grid(as_part, mlp, new):
    """By torch's own loading, or as the backbone of a model by MMEngine's."""
    state = params(randomise(build(token_mlp=mlp), seed=1))
    given, values = dict(state), copy.deepcopy(state)
    model = build(token_mlp=mlp, token_size=new)
    with log_lines() as lines:
        if as_part:
            whole = nn.ModuleDict({"backbone": model})
            mmengine_load(whole, {f"backbone.{k}": v for k, v in state.items()}, strict=True)
        else:
            model.load_state_dict(state)
    expected = reference.resize_checkpoint(values, (7, 7), new)
    for name, value in params(model).items():
        if new == (7, 7):
            assert torch.equal(value, values[name]), name
        else:
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    said = [line for line in lines if "grid" in line]
    assert len(said) == (new != (7, 7))
    assert all("7x7" in line and f"{new[0]}x{new[1]}" in line for line in said)
    # The caller's checkpoint is as it was: the same tensors, with the same values.
    assert all(state[name] is given[name] for name in {**state, **given})
    assert all(torch.equal(state[name], values[name]) for name in values)


# ---------------------------------------------------------------- weights at the start


def test_initial_weights():
    torch.manual_seed(0)
    model = build(arch="tiny", token_mlp="mix")
    weights = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            weights.append(module.weight.detach().flatten())
            if module.weight.numel() > 2000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1), name
                assert abs(module.weight.mean().item()) < 0.002, name
            if module.bias is not None:
                assert (module.bias == 0).all(), name
        elif isinstance(module, (nn.LayerNorm, _BatchNorm)):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    weights = torch.cat(weights) / 0.02
    # Normal: kurtosis 3 (uniform 1.8), 4.55 % beyond two deviations; none far out.
    assert (weights**4).mean().item() == pytest.approx(3, rel=0.02)
    assert (weights.abs() > 2).double().mean().item() == pytest.approx(0.0455, rel=0.03)
    assert weights.abs().max() < 7
    assert model.global_tokens.shape == (1, 7, 7, 48)
    assert model.global_tokens.std().item() == pytest.approx(0.02, rel=0.06)
    gammas = [v for n, v in model.named_parameters() if n.endswith("gamma")]
    assert len(gammas) == 8  # the blocks of stages 1 and 2
    assert all((g == 1e-6).all() for g in gammas)


def test_only_linears_of_a_users_class_start_anew():
    class Gated(nn.Identity):
        """Its gates begin as constants."""

        def __init__(self, embed_dims, num_heads, kernel_size):
            super().__init__()
            self.linear = nn.Linear(embed_dims, 40)
            self.conv = nn.Conv2d(embed_dims, embed_dims, 1)
            self.scale = nn.Parameter(torch.ones(embed_dims))
            for value in (*self.linear.parameters(), *self.conv.parameters()):
                nn.init.constant_(value, 3)

    encoder = build(local_encoder=Gated).stages[1].blocks[0].local_encoder
    assert abs(encoder.linear.weight.std() - 0.02) < 0.004 and (encoder.linear.bias == 0).all()
    assert (encoder.conv.weight == 3).all() and (encoder.scale == 1).all()


def test_convolutions_start_as_torch_has_them():
    torch.manual_seed(0)
    model = build(arch="tiny")
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 5 + 8 + 2  # stem; Conv Encoders; stage 1's downsampling
    for conv in convs:
        bound = conv.weight[0].numel() ** -0.5  # Kaiming uniform with a = sqrt(5)
        assert conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
        if conv.bias is not None:
            assert 0 < conv.bias.abs().max() <= bound


def test_window_table_starts_near_zero():
    torch.manual_seed(0)
    model = build(arch="tiny", local_encoder="window")
    tables = [v for n, v in model.named_parameters() if n.endswith("bias_table")]
    assert [tuple(t.shape) for t in tables] == [(169, 2)] * 2 + [(169, 4)] * 6
    assert torch.cat([t.flatten() for t in tables]).std().item() == pytest.approx(0.02, rel=0.1)
