"""MuonAdamW: which weights are matrices, its steps, and how a config and train.py name it."""

import importlib
import sys

import pytest
import torch
from helpers import build, log_lines
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, OPTIMIZERS, init_default_scope
from tasks import ROOT, TASKS
from torch import nn
from toy_training import run, stop, toy_config
from training_runs import assert_same, last, state_of

from mmdualtoken.config_files import MUON as MUON_FILE
from mmdualtoken.config_files import config_path
from mmdualtoken.errors import InputError

MUON = dict(type="MuonAdamW")


def optimizer_of(model, **settings):
    return OPTIMIZERS.build(dict(MUON, params=model.parameters(), **settings))


def step(model, **settings):
    """One step on random gradients; the optimizer, and each weight's gradient and change."""
    optimizer = optimizer_of(model, weight_decay=0.0, **settings)
    before = [p.detach().clone() for p in model.parameters()]
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    gradients = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    changes = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    return optimizer, gradients, changes


def test_what_is_a_matrix():
    model = build(token_mlp="mix")
    optimizer, _, _ = step(model)
    by_muon = {name for name, p in model.named_parameters() if optimizer.state[p]["use_muon"]}
    block = "stages.1.blocks.0."
    assert {
        f"{block}token_module.aggregate.qkv.weight",  # fused: one matrix
        f"{block}ffn.fc1.weight",
        f"{block}ffn.fc2.weight",
    } <= by_muon
    weights = dict(model.named_parameters())
    others = set(weights) - by_muon
    assert "global_tokens" in others
    assert all(weights[name].ndim >= 2 for name in by_muon)
    assert {name for name in others if weights[name].ndim >= 2} == {
        name
        for name, p in weights.items()
        if p.ndim >= 2 and (1 in p.shape[:2] or min(p.shape[0], p[0].numel()) < 4)
    }


def test_step_of_a_matrix_is_orthogonal():
    """All singular values of the step are near lr * 0.2 * sqrt(the longer side)."""
    model = nn.Linear(24, 48, bias=False)
    _, (gradient,), (change,) = step(model, lr=0.01)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    along = torch.diagonal(left.T @ change @ right.T) / -(0.01 * 0.2 * 48**0.5)
    assert along.min() > 0.6 and along.max() < 1.3


def test_step_of_the_rest_is_adamw():
    model = nn.LayerNorm(16)
    with pytest.raises(InputError, match="got no matrix"):
        optimizer_of(model)
    both = nn.Sequential(nn.Linear(8, 8, bias=False), model)
    _, gradients, changes = step(both, lr=0.06, nesterov=False)
    for gradient, change in zip(gradients[1:], changes[1:], strict=True):
        # Adam's first step is the rate, here a sixth of lr, against the gradient's sign.
        torch.testing.assert_close(change, -0.01 * gradient.sign(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_recipe_of_a_toolbox_with_the_base_file(task, tmp_path):
    """Options of the recipe stay: rates, clipping, accumulation; a schedule scales both rates."""
    file = tmp_path / "mine.py"
    bases = [TASKS[task][0], config_path(MUON_FILE)]
    file.write_text(
        f"_base_ = {bases!r}\n"
        "optim_wrapper = dict(optimizer=dict(_base_.muon, _delete_=True), accumulative_counts=2,\n"
        "    clip_grad=dict(max_norm=1.0), paramwise_cfg=dict(\n"
        "    custom_keys={'global_tokens': dict(decay_mult=0.0), 'backbone': dict(lr_mult=0.5)}))\n"
    )
    cfg = Config.fromfile(file)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer).__name__ == "MuonAdamW"
    assert wrapper.optimizer.defaults["fallback_lr_scale"] == pytest.approx(1 / 6)
    groups = {id(g["params"][0]): g for g in wrapper.optimizer.param_groups}
    for name, p in model.named_parameters():
        group = groups[id(p)]
        if "global_tokens" in name:  # the longest key that fits counts
            assert (group["lr"], group["weight_decay"]) == (6e-3, 0.0)
        else:
            assert group["lr"] == pytest.approx(3e-3 if name.startswith("backbone") else 6e-3)
            assert group["weight_decay"] == 0.05 or name.endswith("bias")
    assert wrapper.clip_grad_kwargs == dict(max_norm=1.0) and wrapper._accumulative_counts == 2


def test_resume_is_exact(here):
    def config():
        cfg = toy_config()
        cfg.optim_wrapper = dict(optimizer=dict(MUON), clip_grad=dict(max_norm=5.0))
        return cfg

    run(config(), "whole")
    stop(config(), "run", done=4)
    run(config(), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_flag(monkeypatch):
    """The config gets the optimizer, at the given rate; the recipe's options stay."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from train import merge_args, parse_args

    cfg = Config.fromfile(TASKS["segmentation"][0])
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.0)
    base = Config.fromfile(config_path(MUON_FILE)).muon
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(head=dict(lr_mult=10.0)))
    for given, rate in ((["--muon"], base.lr), (["--muon", "2e-3"], 2e-3)):
        monkeypatch.setattr(sys, "argv", ["train.py", TASKS["segmentation"][0], *given])
        with log_lines() as lines:
            merge_args(cfg, parse_args())
        assert any("--muon: head learns at 10 times the rate" in line for line in lines)
        assert cfg.optim_wrapper.optimizer == dict(base, lr=rate)
        assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.0)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(InputError, match="pip install timm"):
        importlib.reload(importlib.import_module("mmdualtoken.training.muon"))
