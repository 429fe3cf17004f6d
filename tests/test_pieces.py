"""Computing in chunks changes no result, and happens only where it may."""

import pytest
import torch
from helpers import build, rand, randomise
from torch import nn

from mmdualtoken.models import blocks
from mmdualtoken.models.blocks import chunk_over_images, chunk_over_tokens


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks so small that 64 x 64 images are split, on any number of cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(blocks, "CHUNK_ELEMENTS", 2**11)


class Sizes(nn.Module):
    """Doubles its input, and remembers how many positions each one had."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x.numel() // 3)
        return 2 * x


@pytest.mark.parametrize("width, sizes", [(512, [8, 8, 4]), (4096, [1] * 20), (1, [20])])
@torch.no_grad()
def test_tokens_are_split_by_the_widest_buffer(small_chunks, width, sizes):
    double, x = Sizes(), rand(4, 5, 3)
    assert torch.equal(chunk_over_tokens(double, x, width), 2 * x)
    assert double.seen == sizes


@pytest.mark.parametrize("side, images", [(32, [2, 2, 1]), (64, [1] * 5), (8, [5])])
@torch.no_grad()
def test_images_are_split_by_their_pixels(small_chunks, side, images):
    double, x = Sizes(), rand(5, 3, side, side)
    assert torch.equal(chunk_over_images(double, x, 2), 2 * x)
    assert [n // side**2 for n in double.seen] == images


@torch.no_grad()
def test_no_images_and_no_tokens(small_chunks):
    assert chunk_over_images(Sizes(), rand(0, 3, 8, 8), 1).shape == (0, 3, 8, 8)
    assert chunk_over_tokens(Sizes(), rand(0, 4, 3), 8).shape == (0, 4, 3)


def test_one_go_where_gradients_are_recorded(small_chunks):
    double = Sizes()
    chunk_over_tokens(double, rand(20, 3), 4096)
    chunk_over_images(double, rand(5, 3, 64, 64), 2)
    assert double.seen == [20, 5 * 64 * 64]


@torch.no_grad()
def test_one_go_where_a_graph_is_recorded(small_chunks):
    x = rand(20, 3)
    traced = torch.jit.trace(lambda x: chunk_over_tokens(lambda p: 2 * p, x, 4096), x)
    assert str(traced.graph).count("aten::mul") == 1
    program = torch.export.export(_Tokens(), (x,))
    assert str(program.graph).count("aten.mul") == 1


class _Tokens(nn.Module):
    def forward(self, x):
        return chunk_over_tokens(lambda p: 2 * p, x, 4096)


@pytest.mark.parametrize("dtype, rounding", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("options", [{}, dict(local_encoder="window"), dict(token_module="none")])
def test_the_backbone_gives_the_same(small_chunks, monkeypatch, dtype, rounding, options):
    model = randomise(build(**options)).to(dtype).eval()
    x = rand(3, 3, 64, 96).to(dtype)
    calls = []
    fc1 = model.stages[0].blocks[0].ffn.fc1
    fc1.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    with torch.no_grad():
        got = model(x)
    assert len(calls) > 1 and sum(calls) == 3 * 8 * 12
    want = model(x)  # gradients are recorded: in one go
    for g, w in zip(got, want, strict=True):
        assert (g - w).abs().max() <= rounding * w.abs().max()


def test_batchnorm_takes_its_statistics_over_all_images(small_chunks):
    models = [randomise(build()).double().train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x = rand(4, 3, 64, 64)
    with torch.no_grad():
        models[0](x)
    models[1](x)
    for a, b in zip(models[0].stem.buffers(), models[1].stem.buffers(), strict=True):
        torch.testing.assert_close(a, b)
