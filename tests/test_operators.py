"""mmcv's operators by torchvision: equal to recorded ones and to plain formulas, in every dtype."""

import importlib.util
import math
import subprocess
import sys
from itertools import product

import mmcv
import numpy as np
import operator_cases
import pytest
import torch
import torch.nn.functional as F
from operator_cases import boxes, drawn, rois
from torch.autograd import gradcheck

from mmdualtoken.ops import OperatorsFinder, enable_operators, extension, operators_in_use

if operators_in_use() != "torchvision":
    reason = "mmcv has compiled operators here; MMDUALTOKEN_OPS=torchvision tests ours"
    pytest.skip(reason, allow_module_level=True)

from mmcv import ops  # noqa: E402
from mmcv.ops.multi_scale_deform_attn import (  # noqa: E402
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

RECORDED = np.load(operator_cases.FILE)
NAMES = sorted({name.rsplit("/", 1)[0] for name in RECORDED})


def recorded(name):
    count = sum(key.rsplit("/", 1)[0] == name for key in RECORDED)
    return [torch.from_numpy(RECORDED[f"{name}/{i}"]) for i in range(count)]


@pytest.fixture(scope="module")
def computed():
    return operator_cases.cases()


# --- equal to what mmcv's compiled operators gave


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("mmdet/")])
def test_equals_compiled(name, computed):
    expected = recorded(name)
    assert len(computed[name]) == len(expected)
    for value, wanted in zip(computed[name], expected, strict=True):
        assert value.dtype == wanted.dtype
        tolerance = 0 if name.startswith(("nms", "match")) else 1e-5
        torch.testing.assert_close(value, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("config", operator_cases.DETECTORS)
def test_whole_predictions_equal_compiled(config):
    pytest.importorskip("mmdet", reason="whole detectors need mmdet")
    expected = recorded(config)
    found = operator_cases.prediction(config)
    assert len(found) == len(expected) and len(found[1]) == 10
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted.double(), rtol=1e-4, atol=1e-3)


# --- rules that the recorded cases leave open; the other operators by plain formulas, in float64


def test_nms_takes_the_first_of_equal_scores():
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 9, 10]])
    assert ops.nms(b, torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 2]
    assert ops.nms(b.flip(0), torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 1]


def test_nms_keeps_a_box_at_the_threshold():
    """IoU 0.3 in float32 exceeds the double 0.3, but not the threshold, which is float32 too."""
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 3, 10]])
    assert ops.nms(b, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]


def test_roi_pool_formula():
    x = drawn("pool map", 2, 3, 8, 9).double() - 0.5
    regions = torch.cat([drawn("pool", 7, 1).round(), boxes("pool boxes", 7, 30, 30)], 1).double()
    expected = torch.zeros(7, 3, 2, 3, dtype=torch.float64)
    for r, (image, x1, y1, x2, y2) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = x1 * 0.25, y1 * 0.25, (x2 + 1) * 0.25, (y2 + 1) * 0.25
        for i, j in product(range(2), range(3)):
            ends = [math.floor(y1 + (y2 - y1) / 2 * i), math.ceil(y1 + (y2 - y1) / 2 * (i + 1))]
            top, down = (min(max(e, 0), 8) for e in ends)
            ends = [math.floor(x1 + (x2 - x1) / 3 * j), math.ceil(x1 + (x2 - x1) / 3 * (j + 1))]
            left, right = (min(max(e, 0), 9) for e in ends)
            if top < down and left < right:
                window = x[int(image), :, top:down, left:right]
                expected[r, :, i, j] = window.flatten(1).max(1).values
    assert torch.equal(ops.roi_pool(x, regions, (2, 3), 0.25), expected)


def test_sigmoid_focal_loss_formula():
    x = (drawn("logits", 12, 4).double() - 0.5) * 12
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0, 1, 2, 3, 4, 0])  # 4 is background
    weight = drawn("class weights", 4).double()
    p, is_target = x.sigmoid(), F.one_hot(target, 5)[:, :4].bool()
    expected = torch.where(is_target, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
    expected *= torch.cat([weight, weight.new_ones(1)])[target][:, None]
    found = ops.sigmoid_focal_loss(x, target, 2.0, 0.25, weight, "none")
    torch.testing.assert_close(found, expected)
    mean = ops.sigmoid_focal_loss(x, target, 2.0, 0.25, weight, "mean")
    torch.testing.assert_close(mean, expected.sum() / 12)


def test_softmax_focal_loss_formula():
    x, target = (drawn("softmax", 5, 3).double() - 0.5) * 8, torch.tensor([0, 2, 1, -1, 2])
    weight = drawn("softmax weights", 3).double()
    p = x.softmax(1)
    expected = [
        -0.25 * (1 - p[n, t]) ** 1.5 * p[n, t].log() * weight[t] if t >= 0 else p.new_zeros(())
        for n, t in enumerate(target.tolist())
    ]
    found = ops.softmax_focal_loss(x, target, 1.5, 0.25, weight, "none")
    torch.testing.assert_close(found, torch.stack(expected))


def attention_inputs():
    shapes = torch.tensor([[4, 3], [2, 2]])
    starts = torch.tensor([0, 12])
    value = drawn("value", 2, 16, 2, 3).double()
    locations = drawn("locations", 2, 5, 2, 2, 3, 2).double() * 1.4 - 0.2
    weights = drawn("attention", 2, 5, 2, 2, 3).double()
    return value, shapes, starts, locations, weights


def test_deformable_attention_is_mmcvs_own_in_pytorch():
    value, shapes, starts, locations, weights = attention_inputs()
    expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    found = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("function", [ops.carafe, ops.carafe_naive])
def test_carafe_formula(function):
    x, masks = drawn("carafe", 2, 4, 3, 4).double(), drawn("carafe masks", 2, 18, 6, 8).double()
    expected = torch.zeros(2, 4, 6, 8, dtype=torch.float64)
    for c, i, j, k in product(range(4), range(6), range(8), range(9)):
        y, z = i // 2 + k // 3 - 1, j // 2 + k % 3 - 1
        if 0 <= y < 3 and 0 <= z < 4:
            expected[:, c, i, j] += x[:, c, y, z] * masks[:, c // 2 * 9 + k, i, j]
    torch.testing.assert_close(function(x, masks, 3, 2, 2), expected)


def test_masked_convolution_formula():
    x = drawn("masked", 1, 3, 6, 5).double()
    convolution = ops.MaskedConv2d(3, 4, 3, padding=1).double()
    mask = (drawn("places", 1, 6, 5) > 0.6).double()
    with torch.no_grad():
        torch.testing.assert_close(convolution(x, mask), convolution(x) * mask)
        assert not convolution(x, torch.zeros_like(mask)).any()


# --- gradients


def doubles(name, *shape):
    return (drawn(name, *shape).double() - 0.5).requires_grad_()


REGIONS = torch.tensor([[0.0, 3, 2, 17, 21], [1, -9, -9, 40, 40], [1, 5, 5, 9, 8]]).double()
TARGET = torch.tensor([0, 2, 3, 1])
#: Of the others, mmcv's own gradients were recorded.
GRADIENTS = {
    "roi_pool": (lambda x: ops.roi_pool(x, REGIONS, (2, 2), 0.25), doubles("g3", 2, 2, 6, 5)),
    "sigmoid_focal_loss": (
        lambda x: ops.sigmoid_focal_loss(x, TARGET, 1.5, 0.3, None, "mean"),
        doubles("g4", 4, 3),
    ),
    "softmax_focal_loss": (
        lambda x: ops.softmax_focal_loss(x, TARGET % 3, 1.5, 0.3, None, "mean"),
        doubles("g5", 4, 3),
    ),
    "carafe": (
        lambda x, m: ops.carafe(x, m, 3, 1, 2),
        doubles("g11", 1, 2, 3, 3),
        doubles("g12", 1, 9, 6, 6),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    function, *inputs = GRADIENTS[name]
    assert gradcheck(function, inputs, nondet_tol=0)


def test_gradients_of_deformable_attention():
    value, shapes, starts, locations, weights = attention_inputs()
    inputs = [t.requires_grad_() for t in (value, locations, weights)]
    assert gradcheck(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, w, 64), inputs
    )


def test_a_certain_label_has_no_gradient():
    """(1 - p)^gamma is 0 there, and its derivative for gamma < 1 infinite."""
    x = torch.tensor([[80.0, -80.0]], requires_grad=True)
    label = torch.tensor([0])
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        value = loss(x, label, 0.5, 0.25, None, "sum")
        (gradient,) = torch.autograd.grad(value, x)
        assert value == 0 and torch.equal(gradient, torch.zeros(1, 2))


# --- nothing there, other dtypes and layouts, the same every time


def test_without_boxes():
    none, scores = torch.zeros(0, 4), torch.zeros(0)
    assert ops.nms(none, scores, 0.5)[0].shape == (0, 5)
    assert ops.nms(none, scores, 0.5, offset=1)[1].dtype == torch.int64
    assert [t.shape[0] for t in ops.soft_nms(none, scores)] == [0, 0]
    assert ops.nms_match(torch.zeros(0, 5), 0.5) == []


@pytest.mark.parametrize(("mode", "images"), [("avg", 0), ("max", 2), ("max", 0), ("pool", 0)])
def test_without_rois(mode, images):
    x = torch.rand(images, 3, 8, 8, requires_grad=True)
    if mode == "pool":
        output = ops.roi_pool(x, torch.zeros(0, 5), (2, 3), 0.25)
    else:
        output = ops.roi_align(x, torch.zeros(0, 5), (2, 3), 0.25, 0, mode, True)
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert x.grad.shape == x.shape and not x.grad.any()


def test_a_batch_index_selects_the_image():
    x = torch.stack([torch.full((1, 6, 6), 3.0), torch.full((1, 6, 6), 5.0)])
    regions = torch.tensor([[1.0, 4, 4, 16, 16], [0, 4, 4, 16, 16]])
    for mode in ("avg", "max"):
        pooled = ops.roi_align(x, regions, (2, 2), 0.25, 0, mode, True)
        assert pooled[0].unique().tolist() == [5] and pooled[1].unique().tolist() == [3]


def test_a_box_outside_the_map_pools_zeros():
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    region = torch.tensor([[0.0, 400, 400, 440, 480]])
    pooled = [ops.roi_align(x, region, (2, 2), 0.25, 0, mode, True) for mode in ("avg", "max")]
    pooled.append(ops.roi_pool(x, region, (2, 2), 0.25))
    assert all(not p.any() for p in pooled)
    torch.stack(pooled).sum().backward()
    assert not x.grad.any()


def test_boxes_and_offsets_that_are_not_finite():
    """Of a training that diverged: no crash, and nothing from beside the map."""
    nan, inf = math.nan, math.inf
    x = torch.rand(1, 2, 6, 6, requires_grad=True)
    corners = [[nan] * 4, [1, 1, nan, 8], [1, 1, inf, 8], [-inf, 1, 9, 8]]
    regions = torch.tensor([[0.0, *c] for c in corners])
    for samples, mode, aligned in product((0, 2), ("avg", "max"), (True, False)):
        pooled = ops.roi_align(x, regions, (2, 2), 1.0, samples, mode, aligned)
        pooled[pooled == -1e4] = 0  # mmcv's maximum of no samples
        (gradient,) = torch.autograd.grad(pooled.sum(), x)
        assert not pooled.any() and not gradient.any()
    assert not ops.roi_pool(x, regions, (2, 2), 1.0).any()
    offset = torch.full((1, 18, 6, 6), nan)
    offset[:, ::2] = inf
    weight = torch.rand(3, 2, 3, 3, requires_grad=True)
    offset.requires_grad_()
    output = ops.deform_conv2d(x, offset, weight, 1, 1)
    assert not output.any()
    for gradient in torch.autograd.grad(output.sum(), (x, offset, weight)):
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """What comes out is the result for the rounded inputs, rounded once."""
    x, regions = drawn("half", 2, 3, 20, 30).to(dtype), rois("half rois", 10, 2).to(dtype)
    for mode in ("avg", "max"):
        arguments = ((3, 5), 0.25, 2, mode, True)
        found = ops.roi_align(x, regions, *arguments)
        exact = ops.roi_align(x.float(), regions.float(), *arguments)
        assert found.dtype == dtype and torch.equal(found, exact.to(dtype))
    b, scores = boxes("half boxes", 50).to(dtype), (torch.arange(50) / 50).to(dtype)
    assert torch.equal(ops.nms(b, scores, 0.5)[1], ops.nms(b.float(), scores.float(), 0.5)[1])
    weight, offset = drawn("w", 4, 3, 3, 3).to(dtype), drawn("o", 2, 18, 20, 30).to(dtype)
    found = ops.deform_conv2d(x, offset, weight, 1, 1)
    exact = ops.deform_conv2d(x.float(), offset.float(), weight.float(), 1, 1)
    assert found.dtype == dtype and torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_memory_layout_does_not_matter(mode):
    x, regions = drawn("layout", 2, 4, 20, 30), rois("layout rois", 10, 2)
    arguments = (regions, (3, 5), 0.25, 0, mode, True)
    expected = operator_cases.with_gradients(ops.roi_align, x, frozen=arguments)
    last = x.to(memory_format=torch.channels_last)
    strided = torch.stack([x, x], -1)[..., 0]
    assert not last.is_contiguous() and not strided.is_contiguous()
    for other in (last, strided):
        found = operator_cases.with_gradients(ops.roi_align, other, frozen=arguments)
        for value, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(value, wanted)
    b = boxes("layout boxes", 40)
    columns = b.t().contiguous().t()
    scores = torch.stack([drawn("s", 40)] * 2, 1)[:, 0]
    assert torch.equal(ops.nms(columns, scores, 0.5)[1], ops.nms(b, scores.contiguous(), 0.5)[1])


def test_the_same_every_time(computed):
    again = operator_cases.cases()
    for name, values in computed.items():
        for value, other in zip(values, again[name], strict=True):
            assert torch.equal(value, other), name


def test_offsets_smaller_than_the_output_are_refused():
    x, weight = torch.rand(1, 2, 8, 8), torch.rand(2, 2, 3, 3)
    with pytest.raises(ValueError, match="offsets or masks of 4x4 for an output of 8x8"):
        ops.deform_conv2d(x, torch.zeros(1, 18, 4, 4), weight, 1, 1)


# --- what has no replacement, and where the operators come from


def test_a_missing_operator_is_named():
    with pytest.raises(NotImplementedError) as caught:
        ops.box_iou_rotated(torch.rand(2, 5), torch.rand(2, 5))
    message = str(caught.value)
    assert "'box_iou_rotated'" in message
    assert "mmcv.ops.box_iou_rotated" in message
    assert "--no-build-isolation" in message and "mmcv==" in message
    # A build that fails leaves what is installed.
    assert message.index("pip wheel") < message.rindex("pip install")
    module = ops.RoIAlignRotated((2, 2), 0.25)
    with pytest.raises(NotImplementedError, match=r"mmcv\.ops\.roi_align_rotated\.RoIAlignRotated"):
        module(torch.rand(1, 1, 4, 4), torch.rand(1, 6))


def test_other_attributes():
    """What environment reports print; and what Python asks for is no operator."""
    assert "nothing was compiled" in ops.get_compiler_version()
    assert "nothing was compiled" in ops.get_compiling_cuda_version()
    assert not hasattr(extension, "__wrapped__")


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """As if mmcv had compiled operators: a module that could be found in its folder."""
    (tmp_path / "_ext.py").write_text("")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    yield str(tmp_path / "_ext.py")
    monkeypatch.undo()
    enable_operators()


def test_compiled_operators_win(compiled, monkeypatch):
    monkeypatch.delenv("MMDUALTOKEN_OPS", raising=False)
    enable_operators()
    assert importlib.util.find_spec("mmcv._ext").origin == compiled
    assert operators_in_use() == "compiled"


def test_the_variable_wins_over_compiled_operators(compiled, monkeypatch):
    monkeypatch.setenv("MMDUALTOKEN_OPS", "torchvison")
    with pytest.raises(ValueError, match="'torchvison'; allowed: auto, torchvision"):
        enable_operators()
    monkeypatch.setenv("MMDUALTOKEN_OPS", "torchvision")
    enable_operators()
    enable_operators()
    assert sys.meta_path.count(OperatorsFinder) == 1
    assert importlib.util.find_spec("mmcv._ext").origin == extension.__file__
    assert operators_in_use() == "torchvision"


def test_python_makes_them_importable_when_it_starts(tmp_path):
    """Of a start alone, nothing but the finder is left behind."""
    code = """
import sys
assert not {"torch", "mmcv", "mmdualtoken"} & set(sys.modules)
import mmcv.ops, mmcv._ext
assert "mmdualtoken" not in sys.modules
print(mmcv._ext.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("mmdualtoken/ops/extension/__init__.py")
