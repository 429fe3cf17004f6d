"""torch.compile of the backbone: one graph for all sizes, the same values."""

import warnings
from shutil import which

import pytest
import torch
from helpers import NARROW, VARIANTS, build, distance, rand, randomise
from torch._dynamo.utils import counters

NARROW_ONLY = [name for name in VARIANTS if not name.startswith(("tiny", "small"))]
#: torch asks these whether there is one row of windows, and one cell left after the last pool.
SOME_GRAPHS = ("window", "window-onestep-msa", "encoder-everywhere")
#: The first is what the graph is made for. Not square, odd, smaller than a window, larger.
SIZES = [(2, 64, 96), (3, 37, 91), (2, 75, 125), (5, 160, 40), (2, 224, 224)]


@pytest.fixture(autouse=True)
def no_graphs_before():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def deviation(model, compiled, size, dtype):
    """Largest difference relative to each map's largest value."""
    batch, height, width = size
    images = rand(batch, 3, height, width, dtype=dtype)
    with torch.no_grad():
        return distance(compiled(images), model(images))


SHALLOW = dict(NARROW, depths=(1, 1, 1))  # every block more takes seconds, in g++ a minute


def check(settings, deploy, dtype, tolerance, graphs=1, **options):
    """Compiled for the first size, it serves all by at most `graphs` graphs: the same values."""
    model = randomise(build(**{"arch": SHALLOW, **settings}).to(dtype).eval())
    if deploy:
        model.switch_to_deploy()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, **options)
    assert deviation(model, compiled, SIZES[0], dtype) < tolerance
    with torch._dynamo.config.patch(error_on_recompile=graphs == 1):
        assert max(deviation(model, compiled, size, dtype) for size in SIZES[1:]) < tolerance
    assert counters["stats"]["unique_graphs"] <= graphs


@pytest.mark.parametrize(
    "deploy", [pytest.param(False, marks=pytest.mark.slow), True], ids=["eager", "deployed"]
)
@pytest.mark.parametrize(
    "name",
    [n if n == "mix" else pytest.param(n, marks=pytest.mark.slow) for n in NARROW_ONLY],
)
def test_one_graph_serves_all_sizes(name, deploy):
    graphs = len(SIZES) if name in SOME_GRAPHS else 1
    check(VARIANTS[name], deploy, torch.float64, 1e-10, graphs, backend="eager")


@pytest.mark.parametrize("name", ["mix", "none", "msa", "window"])
def test_a_trace_serves_all_sizes(name):
    """`torch.jit.trace` keeps the branches that its example takes."""
    model = randomise(build(**{"arch": SHALLOW, **VARIANTS[name]}).double().eval())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, rand(1, 3, 224, 224, dtype=torch.float64))
    sizes = [(1, 64, 96), (2, 37, 91), (1, 224, 224)]
    assert max(deviation(model, traced, size, torch.float64) for size in sizes) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("deploy", [False, True], ids=["eager", "deployed"])
def test_one_compiled_program_serves_all_sizes(deploy):
    if not which("g++"):
        pytest.skip("g++ is not installed: torch.compile's default backend needs it on the CPU")
    check(VARIANTS["mix"], deploy, torch.float32, 1e-5)


@pytest.mark.slow
def test_training_step_compiles_as_one_graph():
    model = randomise(build(token_mlp="mix").double().train())
    images = rand(2, 3, 64, 96)

    def gradients(call):
        model.zero_grad()
        sum(out.square().mean() for out in call(images)).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients(model)
    for module in model.modules():  # its statistics changed, though no output reads them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    actual = gradients(torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager"))
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
