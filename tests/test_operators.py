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
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction  # noqa: E402
from mmcv.ops.psa_mask import psa_mask  # noqa: E402

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


# --- equal to plain formulas, in float64


def iou(a, b, offset=0):
    w = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b)]
    union = sum(areas) - w * h
    return w * h / union if union else math.nan


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_formula(offset):
    b, scores = boxes("nms formula", 60).double(), drawn("scores", 60).double()
    kept = []
    for i in scores.argsort(descending=True).tolist():
        if not any(iou(b[i].tolist(), b[k].tolist(), offset) > 0.4 for k in kept):
            kept.append(i)
    dets, index = ops.nms(b, scores, 0.4, offset=offset)
    assert index.tolist() == kept and 10 < len(kept) < 60
    assert torch.equal(dets, torch.cat([b[kept], scores[kept, None]], 1))


def test_nms_takes_the_first_of_equal_scores():
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 9, 10]])
    assert ops.nms(b, torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 2]
    assert ops.nms(b.flip(0), torch.full((4,), 0.5), 0.5)[1].tolist() == [0, 1]


def test_nms_keeps_a_box_at_the_threshold():
    """IoU 0.3 in float32 exceeds the double 0.3, but not the threshold, which is float32 too."""
    b = torch.tensor([[0.0, 0, 10, 10], [0, 0, 3, 10]])
    assert ops.nms(b, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]


def test_nms_match_formula():
    b, scores = boxes("match formula", 60), drawn("match scores", 60)
    groups = ops.nms_match(torch.cat([b, scores[:, None]], 1), 0.3)
    left, expected = scores.argsort(descending=True).tolist(), []
    while left:
        best = left.pop(0)
        same = [i for i in left if iou(b[best].tolist(), b[i].tolist()) >= 0.3]
        expected.append([best, *same])
        left = [i for i in left if i not in same]
    assert [g.tolist() for g in groups] == expected
    assert max(map(len, expected)) > 2


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_formula(method):
    b, scores = boxes("soft formula", 40), drawn("soft scores", 40)
    left, expected = dict(enumerate(scores.tolist())), []
    while left:
        best = max(left, key=left.get)
        expected.append((best, left.pop(best)))
        for i in list(left):
            overlap = iou(b[best].tolist(), b[i].tolist())
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / 0.5)
            elif overlap >= 0.3:
                left[i] *= 1 - overlap if method == "linear" else 0
            if left[i] < 0.05:
                del left[i]
    dets, index = ops.soft_nms(b, scores, 0.3, 0.5, 0.05, method)
    assert index.tolist() == [i for i, _ in expected] and len(index) < 40
    torch.testing.assert_close(dets[:, 4], torch.tensor([s for _, s in expected]))
    assert torch.equal(dets[:, :4], b[index])


def bilinear(channel, y, x):
    """A map's value between cells, as RoIAlign and deformable convolution define it."""
    height, width = channel.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = channel[top, left] * (1 - dx) + channel[top, right] * dx
    lower = channel[down, left] * (1 - dx) + channel[down, right] * dx
    return float(upper * (1 - dy) + lower * dy)


def roi_align_formula(x, regions, size, scale, samples, mode, aligned):
    output = torch.zeros(len(regions), x.shape[1], *size, dtype=x.dtype)
    for r, (image, *corners) in enumerate(regions.tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        extent = [max(e, 0 if aligned else 1) for e in (y2 - y1, x2 - x1)]
        counts = [samples or math.ceil(e / n) for e, n in zip(extent, size, strict=True)]
        for c, i, j in product(range(x.shape[1]), range(size[0]), range(size[1])):
            values = []
            for a, b in product(range(counts[0]), range(counts[1])):
                y = y1 + extent[0] / size[0] * (i + (a + 0.5) / counts[0])
                z = x1 + extent[1] / size[1] * (j + (b + 0.5) / counts[1])
                outside = not (-1 <= y <= x.shape[2] and -1 <= z <= x.shape[3])
                values.append(0 if outside else bilinear(x[int(image), c], y, z))
            if values:
                output[r, c, i, j] = max(values) if mode == "max" else sum(values) / len(values)
    return output


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("samples", "aligned"), [(0, True), (2, True), (0, False)])
def test_roi_align_formula(mode, samples, aligned):
    x = drawn("align map", 3, 2, 9, 7).double() - 0.5
    regions = torch.cat([rois("align rois", 6, 3)[:, :1], boxes("align", 6, 30, 40)], 1).double()
    regions[0, 3:] = regions[0, 1:3] + 9  # one without extent would have no maximum
    arguments = ((2, 3), 0.25, samples, mode, aligned)
    expected = roi_align_formula(x, regions, *arguments)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(ops.roi_align(x, regions, *arguments), expected)


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


@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss_formula(weighted):
    x = (drawn("logits", 12, 4).double() - 0.5) * 12
    target = torch.tensor([0, 1, 2, 3, 4, 4, 0, 1, 2, 3, 4, 0])  # 4 is background
    weight = drawn("class weights", 4).double() if weighted else None
    expected = torch.zeros_like(x)
    for n, c in product(range(12), range(4)):
        p = 1 / (1 + math.exp(-x[n, c]))
        if target[n] == c:
            loss = -0.25 * (1 - p) ** 2 * math.log(p)
        else:
            loss = -0.75 * p**2 * math.log(1 - p)
        expected[n, c] = loss * (weight[target[n]] if weighted and target[n] < 4 else 1)
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


def test_deformable_convolution_formula():
    x, weight = drawn("dcn x", 1, 4, 6, 5).double(), drawn("dcn weight", 2, 2, 3, 3).double()
    offset = (drawn("dcn offset", 1, 36, 3, 3).double() - 0.5) * 5
    mask, bias = drawn("dcn mask", 1, 18, 3, 3).double(), drawn("dcn bias", 2).double()
    expected = torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    for o, i, j, c, k in product(range(2), range(3), range(3), range(2), range(9)):
        channel = 2 * o + c  # two groups of channels, and of offsets
        dy, dx = offset[0, 18 * o + 2 * k : 18 * o + 2 * k + 2, i, j].tolist()
        y, z = 2 * i - 1 + k // 3 + dy, 2 * j - 1 + k % 3 + dx
        if -1 < y < 6 and -1 < z < 5:
            padded = F.pad(x[0, channel], (1, 1, 1, 1))  # zeros outside, unlike RoIAlign
            value = bilinear(padded, y + 1, z + 1)
            expected[0, o, i, j] += weight[o, c].flatten()[k] * value * mask[0, 9 * o + k, i, j]
    found = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 2, 1, 1, 2, 2)
    torch.testing.assert_close(found, expected + bias[:, None, None])
    ones = torch.ones_like(mask)
    modulated = ops.modulated_deform_conv2d(x, offset, ones, weight, None, 2, 1, 1, 2, 2)
    assert torch.equal(ops.deform_conv2d(x, offset, weight, 2, 1, 1, 2, 2), modulated)


def attention_inputs():
    shapes = torch.tensor([[4, 3], [2, 2]])
    starts = torch.tensor([0, 12])
    value = drawn("value", 2, 16, 2, 3).double()
    locations = drawn("locations", 2, 5, 2, 2, 3, 2).double() * 1.4 - 0.2
    weights = drawn("attention", 2, 5, 2, 2, 3).double()
    return value, shapes, starts, locations, weights


def test_deformable_attention_formula():
    value, shapes, starts, locations, weights = attention_inputs()
    expected = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for b, q, h, level, p in product(*map(range, (2, 5, 2, 2, 3))):
        rows, columns = shapes[level].tolist()
        x, y = locations[b, q, h, level, p].tolist()
        x, y = x * columns - 0.5, y * rows - 0.5
        if not (-1 < y < rows and -1 < x < columns):
            continue
        for c in range(3):
            cells = value[b, starts[level] : starts[level] + rows * columns, h, c]
            padded = F.pad(cells.view(rows, columns), (1, 1, 1, 1))
            expected[b, q, h, c] += bilinear(padded, y + 1, x + 1) * weights[b, q, h, level, p]
    found = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(found, expected.flatten(2))


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
GRADIENTS = {
    "roi_align avg": (
        lambda x: ops.roi_align(x, REGIONS, (2, 2), 0.25, 0, "avg", True),
        doubles("g1", 2, 2, 6, 5),
    ),
    "roi_align max": (
        lambda x: ops.roi_align(x, REGIONS, (2, 2), 0.25, 2, "max", True),
        doubles("g2", 2, 2, 6, 5),
    ),
    "roi_pool": (lambda x: ops.roi_pool(x, REGIONS, (2, 2), 0.25), doubles("g3", 2, 2, 6, 5)),
    "sigmoid_focal_loss": (
        lambda x: ops.sigmoid_focal_loss(x, TARGET, 1.5, 0.3, None, "mean"),
        doubles("g4", 4, 3),
    ),
    "softmax_focal_loss": (
        lambda x: ops.softmax_focal_loss(x, TARGET % 3, 1.5, 0.3, None, "mean"),
        doubles("g5", 4, 3),
    ),
    "deform_conv": (
        lambda x, o, w: ops.deform_conv2d(x, o, w, 1, 1, 1, 1, 1),
        doubles("g6", 1, 2, 4, 4),
        doubles("g7", 1, 18, 4, 4),
        doubles("g8", 2, 2, 3, 3),
    ),
    "modulated_deform_conv": (
        lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, 1, 1, 1, 1, 1),
        doubles("g6", 1, 2, 4, 4),
        doubles("g7", 1, 18, 4, 4),
        doubles("g9", 1, 9, 4, 4),
        doubles("g8", 2, 2, 3, 3),
        doubles("g10", 2),
    ),
    "carafe": (
        lambda x, m: ops.carafe(x, m, 3, 1, 2),
        doubles("g11", 1, 2, 3, 3),
        doubles("g12", 1, 9, 6, 6),
    ),
    "psa_mask collect": (lambda x: psa_mask(x, 0, (3, 3)), doubles("g13", 1, 9, 3, 4)),
    "psa_mask distribute": (lambda x: psa_mask(x, 1, (3, 3)), doubles("g13", 1, 9, 3, 4)),
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


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max", "pool"])
def test_without_rois(mode, images):
    x = torch.rand(images, 3, 8, 8, requires_grad=True)
    if mode == "pool":
        output = ops.roi_pool(x, torch.zeros(0, 5), (2, 3), 0.25)
    else:
        output = ops.roi_align(x, torch.zeros(0, 5), (2, 3), 0.25, 0, mode, True)
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert x.grad.shape == x.shape and not x.grad.any()


def test_without_labels():
    x = torch.zeros(0, 3, requires_grad=True)
    loss = ops.sigmoid_focal_loss(x, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss == 0 and x.grad.shape == (0, 3)


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


def test_environment_report_says_that_nothing_was_compiled():
    assert "nothing was compiled" in ops.get_compiler_version()
    assert "nothing was compiled" in ops.get_compiling_cuda_version()


def test_attributes_that_python_asks_for_are_not_operators():
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
    monkeypatch.setenv("MMDUALTOKEN_OPS", "torchvision")
    enable_operators()
    enable_operators()
    assert sys.meta_path.count(OperatorsFinder) == 1
    assert importlib.util.find_spec("mmcv._ext").origin == extension.__file__
    assert operators_in_use() == "torchvision"


def test_a_wrong_variable_is_refused(monkeypatch):
    monkeypatch.setenv("MMDUALTOKEN_OPS", "torchvison")
    with pytest.raises(ValueError, match="'torchvison'; allowed: auto, torchvision"):
        enable_operators()


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
