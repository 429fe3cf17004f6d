"""Low precision: attention and fusion at the ends of fp16's and bf16's range, and loss scaling."""

import copy
from contextlib import nullcontext

import pytest
import torch
from helpers import VARIANTS, build, rand, randomise
from mmengine.utils import digit_version

from mmdualtoken.models.arguments import factory
from mmdualtoken.models.blocks import (
    FFN,
    BiDimAttention,
    ConvEncoder,
    DualTokenBlock,
    WindowAttention,
    attend,
)
from mmdualtoken.models.stem import StepwiseDownsample
from mmdualtoken.models.tokens import (
    MSATokens,
    NormalTokens,
    NoTokens,
    PositionAwareTokens,
    TokenMixMLP,
    TokenMLP,
)

# torch 2.1, the lowest supported, cannot; 2.11 can; those in between were not tried.
FP16_ON_CPU = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version("2.6"),
    reason="older torch lacks fp16's LayerNorm, Linear and autocast on the CPU",
)
HALF = [
    pytest.param(torch.float16, id="fp16", marks=FP16_ON_CPU),
    pytest.param(torch.bfloat16, id="bf16"),
]
#: Largest input: all of fp16's range. bf16 has fp32's range, but squares must stay in it.
LARGEST = {torch.float16: 65504.0, torch.bfloat16: 1e15}
#: ||low precision - fp64|| / ||fp64|| of a map; about three times what was seen.
ERROR = {torch.float16: 0.005, torch.bfloat16: 0.05}
TOKEN_VARIANTS = ("mlp", "mix", "none", "normal", "msa", "window")


def dtypes(name="dtype"):
    return pytest.mark.parametrize(name, HALF)


def backward(out, scale=1e-3):
    """Gradients of a loss small enough that the true ones are far within fp16's range."""
    out.backward(rand(*out.shape, seed=7).clamp(-1, 1).mul(scale).to(out.dtype))


def check_finite(out, inputs, module=None):
    assert out.isfinite().all()
    backward(out)
    grads = {f"input {i}": x.grad for i, x in enumerate(inputs)}
    if module is not None:
        grads |= {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    for name, grad in grads.items():
        assert grad.isfinite().all(), name


def leaf(*shape, scale=1.0, seed=0, dtype):
    """Random values from -scale to scale, some of them at the ends."""
    return rand(*shape, seed=seed).clamp(-1, 1).mul(scale).to(dtype).requires_grad_()


def plain_attention():
    """Attention as plain operations, as where no fused kernel fits."""
    kernels = pytest.importorskip("torch.nn.attention", reason="came with torch 2.3")
    return kernels.sdpa_kernel(kernels.SDPBackend.MATH)


@pytest.mark.parametrize("path", ["default", "plain"])
@dtypes()
def test_attention_over_the_whole_range(dtype, path):
    """Logits of up to the largest value squared; what comes out is an average of the values."""
    q, k, v = (leaf(2, 20, 16, scale=LARGEST[dtype], seed=i, dtype=dtype) for i in range(3))
    with plain_attention() if path == "plain" else nullcontext():
        out = attend(q, k, v, 4)
    slack = 2 * torch.finfo(dtype).eps
    low, high = v.amin(1, keepdim=True), v.amax(1, keepdim=True)
    assert (out >= low - slack * low.abs()).all() and (out <= high + slack * high.abs()).all()
    check_finite(out, (q, k, v))
    # The largest logit is taken off before the exponential: equal ones give the mean.
    equal = torch.full((1, 3, 8), LARGEST[dtype], dtype=dtype)
    values = rand(1, 3, 8).to(dtype)
    mean = values.mean(1, keepdim=True).expand_as(values)
    for sign in (1, -1):
        torch.testing.assert_close(
            attend(equal, sign * equal, values, 2), mean, rtol=0.01, atol=0.01
        )


def block(tokens, mlp=TokenMixMLP, encoder=ConvEncoder):
    size = (1, 8) if tokens in (NormalTokens, MSATokens) else (7, 7)
    down = StepwiseDownsample(16, 1)
    module = factory(tokens)(16, 2, size, down, factory(mlp), 0.1)
    return DualTokenBlock(16, factory(encoder)(16, 2, 5), module, ffn_ratio=4)


BLOCKS = {
    "mix": lambda: block(PositionAwareTokens),
    "mlp": lambda: block(PositionAwareTokens, mlp=TokenMLP),
    "none": lambda: block(NoTokens),
    "normal": lambda: block(NormalTokens),
    "msa": lambda: block(MSATokens),
    "window": lambda: block(PositionAwareTokens, encoder=WindowAttention),
}


@pytest.mark.parametrize(("share", "autocast"), [(1e-6, True), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("name", BLOCKS)
@dtypes()
def test_blocks_over_the_whole_range(dtype, name, share, autocast):
    """What comes in on the residual path is normalised before anything multiplies it."""
    module = randomise(BLOCKS[name]())
    module = module if autocast else module.to(dtype)
    held = torch.float32 if autocast else dtype
    x = leaf(2, 20, 33, 16, scale=share * LARGEST[dtype], dtype=held)
    count = 8 if name in ("normal", "msa") else 49
    tokens = leaf(2, count, 16, scale=share * LARGEST[dtype], dtype=held)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        out, new = module(x, tokens)
    if name == "none":
        check_finite(out, (x,), module)
    else:
        check_finite(torch.cat([out.flatten(1, 2), new], dim=1), (x, tokens), module)


@pytest.mark.parametrize("value", [0.0, -300.0])
@pytest.mark.parametrize("name", BLOCKS)
@dtypes()
def test_blocks_on_maps_without_variance(dtype, name, value):
    """LayerNorm divides by sqrt(variance + 1e-6), and fp16 holds 1e-6 barely."""
    module = randomise(BLOCKS[name]()).to(dtype)
    x = torch.full((1, 6, 6, 16), value, dtype=dtype, requires_grad=True)
    tokens = torch.zeros(1, 8 if name in ("normal", "msa") else 49, 16, dtype=dtype)
    check_finite(module(x, tokens)[0], (x,), module)


def error_of(module, x):
    """||low precision - fp64|| / ||fp64|| of a module's output."""
    expected = copy.deepcopy(module).double()(x.double())
    return (module(x).double() - expected).norm() / expected.norm()


@dtypes()
def test_layers_against_fp64(dtype):
    eps = torch.finfo(dtype).eps
    for module in (FFN(16, 4), ConvEncoder(16, 5)):
        assert error_of(randomise(module).to(dtype), rand(2, 9, 10, 16).to(dtype)) < 4 * eps
    # A strong channel's sum over a detector's 100 x 167 positions is beyond fp16's range.
    module = randomise(BiDimAttention(128)).to(dtype)
    z = rand(1, 100, 167, 128).to(dtype)
    z[..., 5] = 1000
    assert module.norm(z)[..., 5].double().sum() > 65504
    assert error_of(module, z) < 8 * eps


@pytest.mark.parametrize("autocast", [False, True], ids=["pure", "autocast"])
@pytest.mark.parametrize("variant", TOKEN_VARIANTS)
@dtypes()
def test_backbone_against_fp64(dtype, variant, autocast):
    model = randomise(build(**VARIANTS[variant])).eval()
    image = rand(2, 3, 64, 72, dtype=torch.float32)
    expected = copy.deepcopy(model).double()(image.double())
    if autocast:
        with torch.autocast("cpu", dtype=dtype):
            maps = model(image)
    else:
        maps = model.to(dtype)(image.to(dtype))
    for m, value in zip(maps, expected, strict=True):
        assert (m.double() - value).norm() / value.norm() < ERROR[dtype]


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        ("black", "mix"),
        ("black", "window"),
        ("raw pixels", "msa"),
        ("large", "none"),
        ("large", "mix"),
        ("one bright pixel", "normal"),
    ],
)
@dtypes()
def test_backbone_on_images_of_other_ranges(dtype, variant, kind):
    """Normalised images lie within 3 of 0; these are what a forgotten normalisation gives."""
    model = randomise(build(**VARIANTS[variant], norm_eval=True)).train()
    image = rand(2, 3, 40, 56, dtype=torch.float32)
    if kind == "one bright pixel":
        image = torch.zeros_like(image)
        image[:, :, 20, 20] = 1000
    else:
        image = {"black": 0 * image, "raw pixels": image.abs() * 80, "large": image * 1000}[kind]
    image.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        maps = model(image)
    for m in maps:
        assert m.isfinite().all()
    sum((m * rand(*m.shape).to(m.dtype)).sum() * 1e-3 for m in maps).backward()
    assert image.grad.isfinite().all()
    for name, value in model.named_parameters():
        assert value.grad.isfinite().all(), name
