"""The backbone against the plain reading of the formulas in `reference`, and its behaviour."""

import copy
import importlib

import pytest
import reference
import torch
from helpers import (
    NARROW,
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
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmengine.runner import load_state_dict as mmengine_load
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdualtoken.models import DualTokenViT

BIG = ("tiny-mlp", "small-mix")


def maps(size, indices=(0, 1, 2)):
    return [tuple(-(-n // (8 << i)) for n in size) for i in indices]


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_values(variant, size):
    settings = VARIANTS[variant]
    model, p = exact(build(**settings))
    image = rand(1 if variant in BIG else 2, 3, *size)
    with torch.no_grad():
        outs = model(image)
    expected = run_reference(p, image, **settings)
    assert isinstance(outs, tuple)
    assert [o.shape[2:] for o in outs] == maps(size, settings.get("out_indices", (0, 1, 2)))
    assert len(outs) == len(expected)
    for out, value in zip(outs, expected, strict=True):
        same(out, value)


def test_values_in_float32():
    model = randomise(build(token_mlp="mix").eval())
    image = rand(2, 3, 64, 64, dtype=torch.float32)
    p = {name: value.double() for name, value in params(model).items()}
    with torch.no_grad():
        outs = model(image)
    for out, value in zip(outs, run_reference(p, image.double(), token_mlp="mix"), strict=True):
        assert out.dtype == torch.float32
        same(out.double(), value, tol=1e-5)


@pytest.mark.parametrize(
    "size", [(8, 8), (16, 24), (31, 33), (64, 64), (1, 1), (97, 8), (8, 131), (56, 112)]
)
def test_any_input_size(size):
    model, p = exact(build())
    image = rand(1, 3, *size)
    with torch.no_grad():
        outs = model(image)
    assert [o.shape for o in outs] == [
        (1, c, *hw) for c, hw in zip((16, 24, 32), maps(size), strict=True)
    ]
    for out, value in zip(outs, run_reference(p, image), strict=True):
        same(out, value)


@pytest.mark.parametrize("settings", [{}, dict(local_encoder="window", token_mlp="mix")])
def test_detection_size(settings):
    arch = dict(embed_dims=(8, 8, 8), depths=(1, 1, 1), num_heads=(1, 1, 1), ffn_ratios=(2, 2, 2))
    model = randomise(build(arch=arch, **settings).eval())
    with torch.no_grad():
        outs = model(rand(1, 3, 800, 1333, dtype=torch.float32))
    assert [tuple(o.shape[2:]) for o in outs] == [(100, 167), (50, 84), (25, 42)]
    for out in outs:
        assert out.isfinite().all()
        assert out.std() > 0.1  # neither constant nor washed out


@pytest.mark.parametrize("variant", ["mix", "none", "normal", "msa", "window"])
def test_memory_layout_of_the_input_does_not_matter(variant):
    model, _ = exact(build(**VARIANTS[variant]))
    image = rand(2, 3, 37, 40)
    wide = rand(2, 5, 37, 80)
    wide[:, 1:4, :, ::2] = image
    layouts = {
        "channels_last": image.to(memory_format=torch.channels_last),
        "transposed": image.transpose(2, 3).contiguous().transpose(2, 3),
        "strided": wide[:, 1:4, :, ::2],
    }
    with torch.no_grad():
        expected = model(image)
        for name, same_image in layouts.items():
            assert not same_image.is_contiguous(), name
            for out, value in zip(model(same_image), expected, strict=True):
                same(out, value)
        model = model.to(memory_format=torch.channels_last)
        for out, value in zip(model(layouts["channels_last"]), expected, strict=True):
            same(out, value)


@pytest.mark.parametrize("variant", ["mix", "none", "normal", "msa", "window", "norm-bn"])
def test_images_of_a_batch_are_independent(variant):
    model, _ = exact(build(**VARIANTS[variant]))
    image = rand(3, 3, 40, 33)
    with torch.no_grad():
        together = model(image)
        for i in range(3):
            for out, value in zip(model(image[i : i + 1]), together, strict=True):
                same(out, value[i : i + 1])


def test_the_input_is_left_as_it_is():
    model, _ = exact(build())
    image = rand(1, 3, 33, 40)
    before = image.clone()
    model(image)
    assert torch.equal(image, before)


def test_channels_of_the_image():
    model, p = exact(build(in_channels=1))
    image = rand(1, 1, 32, 32)
    for out, value in zip(model(image), run_reference(p, image), strict=True):
        same(out, value)


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("token_mlp", "mlp", "TokenMLP"),
        ("token_mlp", "mix", "TokenMixMLP"),
        ("token_module", "none", "NoTokens"),
        ("local_encoder", "window", "WindowAttention"),
        ("downsample", "onestep", "OneStepDownsample"),
    ],
)
def test_a_class_does_what_its_name_does(setting, name, value):
    modules = [
        importlib.import_module(f"mmdualtoken.models.{m}") for m in ("blocks", "stem", "tokens")
    ]
    (kind,) = [getattr(module, value) for module in modules if hasattr(module, value)]
    named, p = exact(build(**{setting: name}))
    given = build(**{setting: kind}).double().eval()
    given.load_state_dict(p)
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


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "window-onestep-msa"])
def test_every_parameter_gets_a_gradient(variant):
    settings = VARIANTS[variant]
    model = _attention_without_collapse(randomise(build(**settings).double())).train()
    outs = model(rand(1 if variant in BIG else 2, 3, 64, 64))
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


def test_gradients_reach_the_tokens_and_the_image_from_every_map():
    model, _ = exact(build(token_mlp="mix"))
    for i in range(3):
        image = rand(1, 3, 64, 64).requires_grad_()
        model.zero_grad()
        out = model(image)[i]
        (out * rand(*out.shape)).sum().backward()
        assert (image.grad != 0).all()
        assert (model.global_tokens.grad != 0).all()


# ---------------------------------------------------------------- outputs and their norms


@pytest.mark.parametrize("indices", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), [0, 2]])
def test_only_needed_parts_are_built(indices):
    full = params(build())
    model = build(out_indices=indices)
    names = set(params(model))
    assert len(model.stages) == indices[-1] + 1
    expected = {n for n in full if not n.startswith(("stages", "norm"))}
    expected |= {n for n in full for i in range(indices[-1] + 1) if n.startswith(f"stages.{i}.")}
    expected |= {n for n in full for i in indices if n.startswith(f"norm{i}.")}
    assert names == expected
    outs = model(rand(1, 3, 32, 32, dtype=torch.float32))
    assert [o.shape[1] for o in outs] == [(16, 24, 32)[i] for i in indices]


def test_a_single_index_may_be_an_int():
    assert set(params(build(out_indices=1))) == set(params(build(out_indices=(1,))))


@pytest.mark.parametrize("indices", [(0,), (1,), (0, 2)])
def test_a_part_gives_the_maps_of_the_whole(indices):
    full, p = exact(build(token_mlp="mix"))
    part = build(token_mlp="mix", out_indices=indices).double().eval()
    part.load_state_dict({n: v for n, v in p.items() if n in part.state_dict()})
    image = rand(1, 3, 40, 40)
    expected = full(image)
    for i, out in zip(indices, part(image), strict=True):
        same(out, expected[i])


def test_layer_norm_of_the_outputs_is_over_channels():
    model = build().double()  # norms as built: weight 1, bias 0
    outs = model.eval()(rand(2, 3, 64, 64))
    for out in outs:
        same(out.mean(1), torch.zeros_like(out[:, 0]))
        same(out.var(1, unbiased=False), torch.ones_like(out[:, 0]), tol=1e-2)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_epsilon_of_the_output_norm(eps):
    model = build(out_norm_cfg=dict(type="LN", eps=eps)).double().eval()
    plain = build(out_norm_cfg=None).double().eval()
    plain.load_state_dict({n: v for n, v in params(model).items() if not n.startswith("norm")})
    image = rand(1, 3, 32, 32)
    one = dict(weight=torch.ones(()).double(), bias=torch.zeros(()).double())
    for out, raw in zip(model(image), plain(image), strict=True):
        expected = reference.layer_norm(one, raw.permute(0, 2, 3, 1), eps)
        same(out, expected.permute(0, 3, 1, 2))


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
    for out, value in zip(model(image), run_reference(p, image), strict=True):
        same(out, value)  # running statistics, although in training mode
    for name, value in params(model).items():
        assert torch.equal(value, p[name]), name
    assert model.eval() is model
    assert not any(m.training for m in model.modules())


def test_without_norm_eval_the_stem_norms_follow_the_batch():
    model, p = exact(build())
    assert model.train() is model
    assert all(m.training for m in model.modules())
    image = rand(2, 3, 32, 32)
    difference = model(image)[0] - run_reference(p, image)[0]
    assert difference.abs().max() > 1e-3
    assert all(
        (m.running_mean != p[f"stem.convs.{i}.running_mean"]).all()
        for m, i in zip(_stem_norms(model), (1, 4, 7, 10), strict=True)
    )


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("variant", ["mix", "none", "norm-bn"])
def test_frozen_stages(variant, frozen):
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


@pytest.mark.parametrize("variant", ["mix", "none", "msa", "window"])
def test_with_cp_gives_the_same_gradients(variant):
    plain = randomise(build(**VARIANTS[variant]).double()).train()
    saving = build(with_cp=True, **VARIANTS[variant]).double().train()
    saving.load_state_dict(plain.state_dict())
    calls = []
    for model in (plain, saving):
        count = [0]
        hook = [
            b.register_forward_pre_hook(lambda *_, n=count: n.__setitem__(0, n[0] + 1))
            for stage in model.stages
            for b in stage.blocks
        ]
        outs = model(rand(2, 3, 40, 40))
        sum((o * rand(*o.shape)).sum() for o in outs).backward()
        calls.append(count[0])
        for h in hook:
            h.remove()
    assert calls == [5, 10]  # each of the 5 blocks runs a second time in the backward pass
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-9, msg=name)
    with torch.no_grad():
        image = rand(1, 3, 32, 32)
        for out, value in zip(saving.eval()(image), plain.eval()(image), strict=True):
            same(out, value)


def test_with_cp_draws_the_same_drop_path_again():
    plain = randomise(build(drop_path_rate=0.5).double()).train()
    saving = build(drop_path_rate=0.5, with_cp=True).double().train()
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        torch.manual_seed(3)
        sum((o * rand(*o.shape)).sum() for o in model(rand(4, 3, 32, 32))).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-6, atol=1e-9, msg=name)


def _drop_rates(model):
    return [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0
        for stage in model.stages
        for block in stage.blocks
    ]


@pytest.mark.parametrize("arch", [NARROW, "tiny", "small"])
def test_drop_path_rises_linearly_from_zero(arch):
    rates = _drop_rates(build(arch=arch, drop_path_rate=0.3))
    last = len(rates) - 1
    assert rates == pytest.approx([0.3 * i / last for i in range(last + 1)], abs=1e-7)
    assert set(_drop_rates(build())) == {0.0}


def test_drop_path_of_a_part_is_that_of_the_whole():
    assert _drop_rates(build(drop_path_rate=0.4, out_indices=(1,))) == pytest.approx(
        [0, 0.1, 0.2], abs=1e-7
    )


def test_drop_path_only_in_training():
    model, p = exact(build(drop_path_rate=0.5, norm_eval=True))
    image = rand(1, 3, 32, 32).expand(8, -1, -1, -1)
    expected = run_reference(p, image[:1])
    for out, value in zip(model(image), expected, strict=True):
        same(out, value.expand_as(out))
    torch.manual_seed(0)
    out = model.train()(image)[2]
    assert (out - out[:1]).abs().amax((1, 2, 3)).gt(1e-3).any()  # samples drop different branches


# ---------------------------------------------------------------- checkpoints of another grid


def _load_torch(model, state, tmp_path):
    model.load_state_dict(state)


def _load_mmengine(model, state, tmp_path):
    mmengine_load(model, state, strict=True)


def _load_file(model, state, tmp_path):
    file = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": state, "meta": {}}, file)
    load_checkpoint(model, str(file), map_location="cpu", strict=True)


def _load_as_part(model, state, tmp_path):
    """As the backbone of a detector or classifier."""
    whole = nn.ModuleDict({"backbone": model, "head": nn.Linear(2, 2)})
    state = {f"backbone.{name}": value for name, value in state.items()}
    state.update({f"head.{name}": value for name, value in whole["head"].state_dict().items()})
    whole.load_state_dict(state)


@pytest.mark.parametrize("load", [_load_torch, _load_mmengine, _load_file, _load_as_part])
@pytest.mark.parametrize("new", [(3, 5), (9, 9), (7, 7)])
@pytest.mark.parametrize("mlp", ["mlp", "mix"])
def test_checkpoint_of_another_token_grid(mlp, new, load, tmp_path):
    state = params(randomise(build(token_mlp=mlp), seed=1))
    given, values = dict(state), copy.deepcopy(state)
    model = build(token_mlp=mlp, token_size=new)
    with log_lines() as lines:
        load(model, state, tmp_path)
    expected = reference.resize_checkpoint(values, (7, 7), new)
    for name, value in params(model).items():
        if new == (7, 7):
            assert torch.equal(value, values[name]), name
        else:
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    said = [line for line in lines if "grid" in line]
    assert len(said) == (new != (7, 7))
    if said:
        assert "7x7" in said[0]
        assert f"{new[0]}x{new[1]}" in said[0]
    # The caller's checkpoint is as it was: the same tensors, with the same values.
    assert state.keys() == given.keys()
    assert all(state[name] is given[name] for name in given)
    assert all(torch.equal(state[name], values[name]) for name in values)


def test_one_line_is_logged_for_a_whole_load():
    state = params(build(token_mlp="mix"))  # five blocks with weights to resize
    with log_lines() as lines:
        build(token_mlp="mix", token_size=(3, 5)).load_state_dict(state)
    assert len(lines) == 1


@pytest.mark.parametrize("mlp", ["mlp", "mix"])
def test_a_constant_checkpoint_gives_the_same_maps_on_every_grid(mlp):
    """Constant tokens, W and b on 7x7 are constant ones on 9x9: the tokens' part is equal.

    With alpha = 1 nothing else is in G_new, so that the maps must agree.
    """
    model, p = exact(build(token_mlp=mlp, alpha=1.0))
    with torch.no_grad():
        for name, value in p.items():
            if name.endswith("global_tokens"):
                value.copy_(rand(value.shape[-1]))
            elif "token_mix" in name:
                value.fill_(0.03)
    model.load_state_dict(p)
    other = build(token_mlp=mlp, alpha=1.0, token_size=(9, 9)).double().eval()
    other.load_state_dict(p)
    image = rand(1, 3, 40, 40)
    for out, value in zip(other(image), model(image), strict=True):
        same(out, value)


def test_a_checkpoint_without_tokens_does_not_fit_a_model_with_them():
    with pytest.raises(RuntimeError, match="global_tokens"):
        build().load_state_dict(params(build(token_module="none")))


# ---------------------------------------------------------------- wrong settings

BAD = [
    # setting, error, what the message must name: argument, received value, what is allowed
    (dict(arch="large"), ValueError, ["arch", "large", "tiny", "small", "dict"]),
    (dict(arch=3), TypeError, ["arch", "3", "str", "dict"]),
    (dict(arch={**NARROW, "depth": (1, 1, 1)}), ValueError, ["arch", "depth", "depths"]),
    (dict(arch=dict(embed_dims=(16, 24, 32))), ValueError, ["arch", "embed_dims", "num_heads"]),
    (dict(arch={**NARROW, "depths": (1, 2)}), ValueError, ["arch", "depths", r"\(1, 2\)", "three"]),
    (
        dict(arch={**NARROW, "embed_dims": (16, 24, 32, 64)}),
        ValueError,
        ["arch", "embed_dims", "64", "three"],
    ),
    (
        dict(arch={**NARROW, "down_convs": (1,)}),
        ValueError,
        ["arch", "down_convs", r"\(1,\)", "three"],
    ),
    (
        dict(arch={**NARROW, "num_heads": (2, 5, 4)}),
        ValueError,
        ["embed_dims", "24", "num_heads", "5", "multiple"],
    ),
    (
        dict(arch={**NARROW, "embed_dims": (18, 24, 32)}),
        ValueError,
        ["embed_dims", "18", "multiple", "4"],
    ),
    (dict(token_mlp="max"), ValueError, ["token_mlp", "max", "mix", "mlp"]),
    (
        dict(token_module="global"),
        ValueError,
        ["token_module", "global", "position_aware", "none", "normal", "msa"],
    ),
    (dict(local_encoder="convnext"), ValueError, ["local_encoder", "convnext", "conv", "window"]),
    (dict(downsample="once"), ValueError, ["downsample", "once", "stepwise", "onestep"]),
    (dict(token_size=65), ValueError, ["token_size", "65", "4096 tokens"]),
    (dict(token_size=(7,)), ValueError, ["token_size", r"\(7,\)", "pair"]),
    (dict(token_size=(7, 7, 7)), ValueError, ["token_size", r"\(7, 7, 7\)", "pair"]),
    (dict(token_size=(7, 0)), ValueError, ["token_size", r"\(7, 0\)", "positive"]),
    (dict(token_size=(7, 7.0)), ValueError, ["token_size", r"7\.0", "int"]),
    (dict(token_module="normal", token_size=0), ValueError, ["token_size", "0", "positive"]),
    (dict(out_indices=()), ValueError, ["out_indices", r"\(\)", r"\(0, 1, 2\)"]),
    (dict(out_indices=(3,)), ValueError, ["out_indices", "3", r"\(0, 1, 2\)"]),
    (dict(out_indices=(-1,)), ValueError, ["out_indices", "-1", r"\(0, 1, 2\)"]),
    (dict(out_indices=(1, 0)), ValueError, ["out_indices", r"\(1, 0\)", "rising"]),
    (dict(out_indices=(1, 1)), ValueError, ["out_indices", r"\(1, 1\)", "rising"]),
    (dict(alpha=-0.1), ValueError, ["alpha", "-0.1", "0 to 1"]),
    (dict(alpha=1.5), ValueError, ["alpha", "1.5", "0 to 1"]),
    (dict(alpha=float("nan")), ValueError, ["alpha", "nan", "0 to 1"]),
    (dict(drop_path_rate=-0.1), ValueError, ["drop_path_rate", "-0.1", "0 to 1"]),
    (dict(drop_path_rate=1.1), ValueError, ["drop_path_rate", "1.1", "0 to 1"]),
    # The last block would always drop its branches, and scale what is left by 1 / 0.
    (dict(drop_path_rate=1.0), ValueError, ["drop_path_rate", "1.0"]),
    (dict(frozen_stages=4), ValueError, ["frozen_stages", "4", "-1 to 3"]),
    (dict(frozen_stages=-2), ValueError, ["frozen_stages", "-2", "-1 to 3"]),
    # Values of another type, and numbers that no layer can be built of.
    (dict(alpha="high"), (TypeError, ValueError), ["alpha", "high"]),
    (dict(drop_path_rate=None), (TypeError, ValueError), ["drop_path_rate", "None"]),
    (dict(token_size=None), (TypeError, ValueError), ["token_size", "None"]),
    (dict(out_indices=1.5), (TypeError, ValueError), ["out_indices", r"1\.5"]),
    (dict(frozen_stages=1.0), (TypeError, ValueError), ["frozen_stages", r"1\.0"]),
    (dict(token_mlp=["mlp"]), (TypeError, ValueError), ["token_mlp", r"\['mlp'\]"]),
    (dict(arch={**NARROW, "depths": 3}), (TypeError, ValueError), ["arch", "depths", "3"]),
    (dict(arch={**NARROW, "depths": (-1, 1, 1)}), ValueError, ["depths", "-1"]),
    (dict(arch={**NARROW, "num_heads": (0, 2, 4)}), ValueError, ["num_heads", "0"]),
    (dict(arch={**NARROW, "num_heads": (-2, 2, 4)}), ValueError, ["num_heads", "-2"]),
    (dict(arch={**NARROW, "kernel_sizes": (4, 7, None)}), ValueError, ["kernel_sizes", "4"]),
    (dict(arch={**NARROW, "down_convs": (-1, 0, 0)}), ValueError, ["down_convs", "-1"]),
]


@pytest.mark.parametrize(("settings", "error", "parts"), BAD, ids=[str(s) for s, _, _ in BAD])
def test_wrong_settings(settings, error, parts):
    with pytest.raises(error) as caught:
        build(**settings)
    for part in ["DualTokenViT", *parts]:  # `match` searches; the parts are regular expressions
        assert caught.match(part)


def test_settings_are_not_changed():
    arch, norm = copy.deepcopy(NARROW), dict(type="BN", eps=1e-3)
    build(arch=arch, out_norm_cfg=norm)
    assert arch == NARROW
    assert norm == dict(type="BN", eps=1e-3)
    build(arch="tiny").arch["depths"] = (9, 9, 9)
    assert DualTokenViT.arch_settings["tiny"]["depths"] == (2, 6, 4)


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


def test_init_weights_keeps_the_start_and_says_it_once():
    model = build()
    before = params(model)
    with log_lines() as lines:
        model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in params(model).items())
    said = [line for line in lines if line.startswith("DualTokenViT")]
    assert len(said) == 1
    assert "scratch" in said[0]
    assert "LN" in said[0]


def test_init_weights_from_a_classifier(tmp_path):
    donor = params(randomise(build()))
    file = tmp_path / "classifier.pth"
    state = {f"backbone.{name}": value for name, value in donor.items()}
    torch.save({"state_dict": {**state, "head.fc.weight": torch.zeros(2, 2)}}, file)
    model = build(init_cfg=dict(type="Pretrained", checkpoint=str(file), prefix="backbone."))
    model.init_weights()
    for name, value in params(model).items():
        assert torch.equal(value, donor[name]), name


# ---------------------------------------------------------------- registries


@pytest.mark.parametrize("package", ["mmengine", "mmdet", "mmseg", "mmpretrain"])
def test_built_from_every_registry(package):
    pytest.importorskip(package, reason=f"{package} is one of the toolboxes, not a requirement")
    registry = importlib.import_module(f"{package}.registry").MODELS
    model = registry.build(dict(type="DualTokenViT", arch=NARROW, out_indices=(1, 2)))
    assert type(model) is DualTokenViT
    outs = model(rand(1, 3, 32, 32, dtype=torch.float32))
    assert [tuple(o.shape) for o in outs] == [(1, 24, 2, 2), (1, 32, 1, 1)]


def test_wrong_settings_through_the_registry():
    with pytest.raises(ValueError, match="token_mlp"):
        MODELS.build(dict(type="DualTokenViT", arch=NARROW, token_mlp="max"))
