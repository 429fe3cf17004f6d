"""The backbone from a checkpoint: init_cfg 'Pretrained', and what it refuses."""

import re
from pathlib import Path

import pytest
import reference
import safetensors.torch
import torch
from helpers import build, log_lines, params, randomise, same
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.weights.fitting import list_names
from mmdualtoken.weights.pretrained import load_backbone


def classifier(seed=1, **settings):
    """The tensors of a classifier's backbone, which gives out the last stage only."""
    return params(randomise(build(**{"out_indices": (2,), **settings}), seed))


def prefixed(state, prefix="backbone."):
    return {prefix + name: value for name, value in state.items()}


def whole(state, prefix=""):
    """The tensors of a whole classifier."""
    head = {f"{prefix}head.fc.weight": torch.zeros(2, 2), f"{prefix}neck.proj.bias": torch.ones(2)}
    return {**prefixed(state, f"{prefix}backbone."), **head}


def save(content, folder, name="classifier.pth"):
    torch.save(content, folder / name)
    return str(folder / name)


def start(file, prefix="backbone.", **settings):
    """A backbone that starts from the file, and the lines that tell what was loaded."""
    model = build(init_cfg=dict(type="Pretrained", checkpoint=file, prefix=prefix), **settings)
    with log_lines() as lines:
        model.init_weights()
    return model, [line for line in lines if "backbone tensors" in line]


def has(model, state, but=()):
    """Whether the model's tensors are those of `state`, except the ones named."""
    own = params(model)
    assert len(own) > 100
    for name, value in own.items():
        if not name.startswith(tuple(but)):
            assert torch.equal(value, state[name]), name
    return True


def averaged(state):
    """What EMAHook leaves in a checkpoint: averages as state_dict, the others beside it."""
    model = nn.Module()
    model.backbone = build(out_indices=(2,))
    model.backbone.load_state_dict(state)
    hook = EMAHook()
    hook.src_model, hook.ema_model = model, ExponentialMovingAverage(model)
    randomise(model, seed=9)
    checkpoint = dict(meta={}, state_dict=model.state_dict())
    own = hook.ema_model.state_dict()
    hook.before_save_checkpoint(None, checkpoint)
    return checkpoint, own


NEW = "; newly initialized, not in the file: norm0, norm1"
FORMS = {
    "whole": (lambda s: dict(meta={}, state_dict=whole(s)), "backbone", ""),
    "bare": (lambda s: s, "backbone.", "; names without 'backbone.'"),
    "another key": (lambda s: dict(model=whole(s), epoch=3), "backbone.", ""),
    "not bare": (whole, None, "; names begin with 'backbone.'"),
    "DDP": (lambda s: whole(s, "module."), "backbone.", "; names begin with 'module.backbone.'"),
    "EMAHook": (lambda s: averaged(s)[0], "backbone.", ""),
    "EMA itself": (
        lambda s: averaged(s)[1],
        "backbone.",
        "; names begin with 'module.backbone.'",
    ),
    "of a teacher": (lambda s: prefixed(s, "teacher.backbone."), "teacher.backbone.", ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form, tmp_path):
    """Each gives the same weights and exactly one line, which counts."""
    make, prefix, note = FORMS[form]
    state = classifier()
    file = save(make(state), tmp_path)
    model, lines = start(file, prefix)
    total = len(model.state_dict())
    assert len(state) == total - 4  # weight and bias of norm0 and norm1
    assert lines == [f"loaded {total - 4} of {total} backbone tensors from {file}{NEW}{note}"]
    assert has(model, state, but=("norm0", "norm1"))
    fresh = params(build())
    for name in ("norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias"):
        assert torch.equal(params(model)[name], fresh[name])


def test_safetensors(tmp_path):
    file = str(tmp_path / "classifier.safetensors")
    state = classifier()
    safetensors.torch.save_file(whole(state), file)
    model, lines = start(file)
    assert len(lines) == 1
    assert has(model, state, but=("norm0", "norm1"))
    Path(file).write_bytes(Path(file).read_bytes()[:2000])
    with pytest.raises(InputError, match=r"classifier.safetensors cannot be read .*cut off"):
        start(file)


def test_detector_gives_every_norm(tmp_path):
    """From the backbone of a detector: all of it, its BatchNorm too."""
    bn = dict(out_norm_cfg=dict(type="BN"))
    state = params(randomise(build(**bn), seed=2))
    file = save(
        dict(state_dict={**prefixed(state), "neck.convs.0.weight": torch.ones(1)}), tmp_path
    )
    model, lines = start(file, **bn)
    assert lines == [f"loaded {len(state)} of {len(state)} backbone tensors from {file}"]
    assert has(model, state)


@pytest.mark.parametrize("there, here", [("LN", "BN"), ("BN", "LN"), ("LN", None)])
def test_output_norm_of_another_type_starts_anew(there, here, tmp_path):
    """Scales that a LayerNorm learned mean nothing to a BatchNorm without its statistics."""
    state = classifier(out_norm_cfg=dict(type=there))
    file = save(whole(state), tmp_path)
    model, (line,) = start(file, out_norm_cfg=here and dict(type=here))
    assert has(model, state, but=("norm",))
    taken = sum(not name.startswith("norm") for name in state)
    assert f"loaded {taken} of {len(model.state_dict())} " in line
    if here is None:
        assert line.endswith("; not used: norm2")
        return
    assert line.endswith(f"{NEW}; newly initialized, of another type in the file: norm2")
    fresh = params(build(out_norm_cfg=dict(type=here)).norm2)
    assert "weight" in fresh
    for name, value in params(model.norm2).items():
        assert torch.equal(value, fresh[name]), name


def test_fewer_stages_than_the_classifier(tmp_path):
    state = classifier()
    file = save(whole(state), tmp_path)
    model, (line,) = start(file, out_indices=(0, 1))
    assert {name[:8] for name in params(model) if name.startswith("stages")} == {
        "stages.0",
        "stages.1",
    }
    assert has(model, state, but=("norm",))
    assert line.endswith(f"{NEW}; not used: norm2, stages.2")
    file = save(prefixed(params(model)), tmp_path)
    with pytest.raises(
        InputError, match=r"Tensors missing \(\d+\): .*stages.2.merging.norm.weight"
    ):
        start(file)


def test_another_token_grid_is_resized(tmp_path):
    state = classifier(token_mlp="mix")
    model, (line,) = start(save(whole(state), tmp_path), token_mlp="mix", token_size=(9, 9))
    total = len(model.state_dict())
    assert f"loaded {total - 4} of {total} " in line
    assert model.global_tokens.shape == (1, 9, 9, 16)
    for name, value in reference.resize_checkpoint(state, (7, 7), (9, 9)).items():
        same(params(model)[name].double(), value.double(), tol=1e-5)


def test_counters_may_be_missing(tmp_path):
    state = {k: v for k, v in classifier().items() if "num_batches_tracked" not in k}
    model, (line,) = start(save(whole(state), tmp_path))
    counters = [k for k in params(model) if "num_batches_tracked" in k]
    assert len(counters) == 4
    assert f"loaded {len(state)} of {len(state) + 8} " in line
    assert "; num_batches_tracked of the stem counts from 0, not in the file" in line
    assert all(params(model)[k] == 0 for k in counters)


def test_after_other_initialisers(tmp_path):
    """As MMEngine does: 'Pretrained' comes last, wherever it stands in a list."""
    state = classifier()
    pretrained = dict(type="Pretrained", checkpoint=save(whole(state), tmp_path), prefix="backbone")
    constant = dict(type="Constant", layer="LayerNorm2d", val=3.0)
    model = build(init_cfg=[pretrained, constant])
    model.init_weights()
    assert has(model, state, but=("norm0", "norm1"))
    assert (model.norm0.weight == 3).all()
    assert model.init_cfg == [pretrained, constant]
    with log_lines() as lines:
        model.init_weights()  # a second time does nothing
    assert not any("backbone tensors" in line for line in lines)


NO_TOKENS = dict(token_module="none")
WINDOW = dict(local_encoder="window")
MISFITS = {
    "window into conv": (WINDOW, {}, ["relative_position_bias_table", "missing", "not known"]),
    "none into tokens": (
        NO_TOKENS,
        {},
        ["missing (37): global_tokens, stages.*.blocks.*.token_module.norm.weight (5)"],
    ),
    "tokens into none": ({}, NO_TOKENS, ["not known (37): global_tokens"]),
    "fewer tokens, no grid": (
        dict(token_module="msa", token_size=4),
        dict(token_module="msa", token_size=8),
        ["of another shape (1): global_tokens", "(1, 1, 4, 16)", "(1, 1, 8, 16)"],
    ),
    "colour into grey": (
        {},
        dict(in_channels=1),
        ["the same arch, in_channels,", "(8, 3, 3, 3) in the file, (8, 1, 3, 3) by the config"],
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_wrong_variant(case, tmp_path):
    there, here, texts = MISFITS[case]
    file = save(whole(classifier(**there)), tmp_path)
    model = build(init_cfg=dict(type="Pretrained", checkpoint=file, prefix="backbone."), **here)
    before = params(model)
    with pytest.raises(InputError) as caught:
        model.init_weights()
    assert f"{file} does not fit" in str(caught.value)
    for text in texts:
        assert text in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in params(model).items())


def test_prefix_is_named_only_where_one_was_given(tmp_path):
    file = save(whole(classifier()), tmp_path)
    for prefix, text in (("", "backbone. Use"), ("net.", "(no tensor is named 'net....', but")):
        model = build(in_channels=1)
        with pytest.raises(InputError, match=re.escape(text)):
            load_backbone(model, file, prefix)


MIX = "stages.0.blocks.0.token_module.mlp.token_mix.weight"


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("stages.1.blocks.0.proj.weight", None, "Tensors missing (1): stages.1.blocks"),
        ("stages.3.x", torch.ones(1), "Tensors not known (1): stages.3.x"),
        ("norm3.bias", torch.ones(1), "Tensors not known (1): norm3.bias"),
        ("norm2.bias", torch.ones(1), "of another shape (1): norm2.bias"),
        # Of another grid than the file's own tokens.
        (MIX, torch.zeros(25, 25), f"of another shape (2): {MIX}"),
    ],
)
def test_one_wrong_tensor(name, value, text, tmp_path):
    state = classifier(token_mlp="mix")
    state[name] = value
    state = {k: v for k, v in state.items() if v is not None}
    with pytest.raises(InputError, match=re.escape(text)):
        start(save(whole(state), tmp_path), token_mlp="mix", token_size=(9, 9))


@pytest.mark.parametrize(
    "content, text",
    [
        ({"backbone.conv1.weight": torch.ones(1)}, "no tensor is named 'backbone.global_tokens'"),
        (dict(state_dict={}), "holds no tensors by name"),
        ([torch.ones(1)], "holds no tensors by name (found: list)"),
    ],
)
def test_other_files(content, text, tmp_path):
    with pytest.raises(InputError, match=re.escape(text)):
        start(save(content, tmp_path))


def test_missing_and_truncated(tmp_path):
    with pytest.raises(InputError, match="nowhere.pth does not exist"):
        start("nowhere.pth")
    file = Path(save(whole(classifier()), tmp_path))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match="classifier.pth cannot be read"):
        start(str(file))


def test_names_in_short():
    names = [f"blocks.{i}.proj.bias" for i in range(3)] + ["stem.bias", "fc.0.weight"]
    assert list_names(names) == "blocks.*.proj.bias (3), stem.bias, fc.0.weight"
    assert list_names(names, limit=1) == "blocks.*.proj.bias (3), and 2 more kinds"
