"""What holds for every size, batch, dtype, memory layout and variant, on drawn examples."""

import contextlib
import functools

import torch
from helpers import build, rand, randomise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WIDTHS = (8, 12, 16)
ARCH = dict(embed_dims=WIDTHS, depths=(1, 1, 2), num_heads=(2, 2, 4), ffn_ratios=(2, 2, 2))
#: Rounding alone, relative to the largest value: other batch sizes and layouts take other kernels,
#: which sum in another order. Ten times what was seen, or more.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}

dtypes = st.sampled_from(list(ROUNDING))
sides = st.integers(8, 97)
image_shapes = st.tuples(st.integers(1, 3), st.just(3), sides, sides)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))
out_indices = st.sets(st.integers(0, 2), min_size=1).map(sorted)


@st.composite
def variants(draw):
    """Settings of a backbone."""
    token_module = draw(st.sampled_from(["position_aware", "none", "normal", "msa"]))
    has_grid = token_module in ("position_aware", "none")
    arch = dict(
        ARCH,
        kernel_sizes=draw(st.sampled_from([(5, 7, None), (3, None, 5), (None, None, None)])),
        down_convs=draw(st.sampled_from([(1, 0, 0), (0, 2, 1)])),
    )
    return dict(
        arch=arch,
        token_module=token_module,
        token_size=draw(grids if has_grid else st.integers(1, 12)),
        token_mlp=draw(st.sampled_from(["mlp", "mix"])),
        local_encoder=draw(st.sampled_from(["conv", "window"])),
        downsample=draw(st.sampled_from(["stepwise", "onestep"])),
        alpha=draw(st.sampled_from([0, 0.1, 1])),
        out_indices=draw(out_indices),
        out_norm_cfg=draw(st.sampled_from([dict(type="LN", eps=1e-6), dict(type="BN"), None])),
    )


def examples(count):
    """The same examples in every run; no limit on the time of one, on a busy machine."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def model_of(variant, dtype):
    return randomise(build(**variant)).to(dtype).eval()


@functools.cache
def onednn_errs_on_narrow_maps():
    """Its bf16 kernels for AMX read memory that is not theirs, see docs/troubleshooting.md."""
    image = rand(1, 4, 13, 2, dtype=torch.bfloat16)
    weight = rand(8, 4, 3, 3, seed=1, dtype=torch.bfloat16)
    expected = torch.conv2d(image.double(), weight.double(), stride=2, padding=1)
    for _ in range(10):
        for size in (100, 1000, 10_000, 100_000):  # freed at once: what may be read next
            torch.full((size,), float("nan"))
        actual = torch.conv2d(image, weight, stride=2, padding=1).double()
        if not torch.allclose(actual, expected, atol=0.1):
            return True
    return False


def maps_of(model, image):
    kernels = contextlib.nullcontext()
    if image[0].dtype == torch.bfloat16 and onednn_errs_on_narrow_maps():
        kernels = torch.backends.mkldnn.flags(enabled=False)
    with torch.no_grad(), kernels:
        return model(image)


def close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape
        limit = ROUNDING[a.dtype] * b.abs().max().item()
        assert (a - b).abs().max().item() <= limit


def equal(actual, expected):
    """Bit for bit."""
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@examples(60)
@given(variant=variants(), shape=image_shapes, dtype=dtypes)
def test_maps_have_their_shape_and_are_finite_and_repeatable(variant, shape, dtype):
    model, image = model_of(variant, dtype), rand(*shape, dtype=dtype)
    maps = maps_of(model, image)
    batch, _, *size = shape
    assert [tuple(m.shape) for m in maps] == [
        (batch, WIDTHS[i], *[-(-n // (8 << i)) for n in size]) for i in variant["out_indices"]
    ]
    for m in maps:
        assert m.dtype == dtype
        assert m.is_contiguous()
        assert m.isfinite().all()
        assert m.std() > 0
    equal(maps_of(model, image), maps)


@examples(30)
@given(
    variant=variants(),
    shape=image_shapes,
    dtype=dtypes,
    neighbour=st.sampled_from([0.0, 30.0, -3.0, float("inf"), float("nan")]),
)
def test_an_image_does_not_depend_on_its_neighbours(variant, shape, dtype, neighbour):
    """Bit for bit, whatever the neighbours of equal size hold: also where they are not finite."""
    model = model_of(variant, dtype)
    images = rand(3, *shape[1:], dtype=dtype)
    for place in range(3):
        others = torch.full_like(images, neighbour)
        others[place] = images[place]
        expected = [m[place] for m in maps_of(model, images)]
        equal([m[place] for m in maps_of(model, others)], expected)


@examples(25)
@given(variant=variants(), shape=image_shapes, dtype=dtypes)
def test_alone_or_in_a_batch_is_the_same_up_to_rounding(variant, shape, dtype):
    model, images = model_of(variant, dtype), rand(3, *shape[1:], dtype=dtype)
    together = maps_of(model, images)
    for i in range(3):
        close(maps_of(model, images[i : i + 1]), [m[i : i + 1] for m in together])
    order = [2, 0, 1]
    close(maps_of(model, images[order]), [m[order] for m in together])


def sliced(image):
    """Every second element of a larger tensor, from the second on."""
    wide = torch.full((*image.shape[:2], *[2 * n + 1 for n in image.shape[2:]]), 7.0).to(image)
    wide[:, :, 1::2, 1::2] = image
    return wide[:, :, 1::2, 1::2]


LAYOUTS = {
    "channels_last": lambda image: image.to(memory_format=torch.channels_last),
    "sliced": sliced,
    "transposed": lambda image: image.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda image: image.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "slice of channels": lambda image: torch.cat([image[:, :1], image, image[:, :1]], 1)[:, 1:-1],
}


@examples(30)
@given(
    variant=variants(),
    shape=image_shapes,
    dtype=dtypes,
    layout=st.sampled_from(sorted(LAYOUTS)),
    channels_last_model=st.booleans(),
)
def test_memory_layout_does_not_matter(variant, shape, dtype, layout, channels_last_model):
    model, image = model_of(variant, dtype), rand(*shape, dtype=dtype)
    expected = maps_of(model, image)
    if channels_last_model:
        model = model.to(memory_format=torch.channels_last)
    laid_out = LAYOUTS[layout](image)
    assert torch.equal(laid_out, image)
    maps = maps_of(model, laid_out)
    close(maps, expected)
    assert all(m.is_contiguous() for m in maps)


@examples(25)
@given(variant=variants(), shape=image_shapes, with_cp=st.booleans())
def test_every_gradient_is_finite(variant, shape, with_cp):
    model = randomise(build(**variant, with_cp=with_cp, norm_eval=True)).train()
    # Statistics of one position alone are no statistics: BatchNorm refuses to train on them.
    image = rand(2, *shape[1:], dtype=torch.float32).requires_grad_()
    sum((m * rand(*m.shape, dtype=m.dtype)).sum() for m in model(image)).backward()
    assert image.grad.isfinite().all()
    assert (image.grad != 0).any()
    for name, value in model.named_parameters():
        if value.grad is not None:
            assert value.grad.isfinite().all(), name
