"""Mixed-precision training: loss scaling finds its scale, and an overflow skips the step."""

import copy

import pytest
import torch
from helpers import build, params, rand, randomise

if not hasattr(torch.amp, "GradScaler"):
    pytest.skip("torch.amp.GradScaler, which works on the CPU, came with 2.3", True)


def model_and_optimizer(lr=1e-3):
    model = randomise(build(token_mlp="mix", norm_eval=True)).train()
    return model, torch.optim.AdamW(model.parameters(), lr=lr)


def loss_of(model, image, dtype=torch.float16):
    with torch.autocast("cpu", dtype=dtype):
        maps = model(image)
    return sum((m.float() - rand(*m.shape, seed=3).float()).square().mean() for m in maps)


def image_of(size=48):
    return rand(2, 3, size, size, dtype=torch.float32)


def scaler_of(scale):
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


def test_the_scale_falls_until_training_goes_on():
    """A scale far too large: gradients overflow, steps are skipped, then the loss falls."""
    model, optimizer = model_and_optimizer()
    scaler = scaler_of(2.0**40)
    image, start = image_of(), params(model)
    losses, scales = [], []
    for _ in range(60):
        optimizer.zero_grad()
        loss = loss_of(model, image)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        scales.append(scaler.get_scale())
        if scales[-1] == 2.0**39:  # the first step was skipped
            assert all(torch.equal(value, start[n]) for n, value in params(model).items())
    settled = scales[-1]
    assert 1 <= settled < 2.0**39
    assert scales[-10:] == [settled] * 10  # no more overflow
    assert losses[-1] < 0.8 * losses[0]
    assert all(value.isfinite().all() for value in params(model).values())


def test_scaled_gradients_are_those_of_fp64():
    """A loss so small that its fp16 gradients would be zeros for the most part."""
    model, _ = model_and_optimizer()
    exact, image = copy.deepcopy(model).double(), image_of()

    def grads(model, image, scale, dtype):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16, enabled=dtype == torch.float32):
            maps = model(image)
        loss = sum((m.to(dtype) * rand(*m.shape, seed=3).to(dtype)).sum() for m in maps) * 1e-9
        (loss * scale).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        return flat.double() / scale

    expected = grads(exact, image.double(), 1, torch.float64)
    scaled = grads(model, image, 2.0**30, torch.float32)
    assert (scaled - expected).norm() / expected.norm() < 0.02
    unscaled = grads(model, image, 1, torch.float32)
    assert (unscaled - expected).norm() / expected.norm() > 0.5
