"""tools/quantize.py: layers of 8 bits, results near the exact file's, nothing half-written."""

import builtins
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import CLASSIFIER, two_stage, write_onnx
from mmengine.config import Config

from mmdualtoken.export.deployed import load_deployed
from mmdualtoken.export.quantization import QUANTIZERS, ValidationData

CLASSES = ("disc", "square", "star", "triangle")
RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}

#: The first block's MLP reads the learned tokens alone: NNCF leaves its two layers, of constants.
CONSTANT = 2


@pytest.fixture
def quantizers(onnx):
    """Skip where what quantising needs is not installed."""
    pytest.importorskip("nncf", reason="nncf is not installed: the extra [quantize]")


def quantize(tool, suffix, *options):
    """Quantise model.onnx of model.py; returns the new file, layers of 8 bits, and all layers."""
    out = Path(f"small{suffix}")
    status, printed = tool("quantize", "model.py", "model.onnx", out, *options)
    assert status == 0, printed
    quantized, layers = re.search(r"(\d+) of (\d+) layers with weights", printed).groups()
    return out, int(quantized), int(layers)


def operators(file):
    """Types of the operators of an .onnx or .xml file."""
    if file.suffix == ".onnx":
        import onnx

        return [node.op_type for node in onnx.load(file).graph.node]
    return re.findall(r'<layer id="\d+" name="[^"]*" type="(\w+)"', file.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", QUANTIZERS)
def test_classifier_in_8_bits(suffix, quantizers, project, tool):
    cfg = Config.fromfile(CLASSIFIER)
    write_onnx(cfg, CLASSES)
    file, quantized, layers = quantize(tool, suffix)
    assert (quantized, layers) == {".onnx": (59, 59), ".xml": (54 - CONSTANT, 54)}[suffix]
    assert operators(file).count({".onnx": "DequantizeLinear", ".xml": "FakeQuantize"}[suffix]) > 30
    exact, small = (load_deployed(cfg, name, RUNTIMES[suffix]) for name in ("model.onnx", file))
    assert small.file.names == ["scores"] and small.file.meta == exact.file.meta
    data = ValidationData(cfg)
    for index in range(len(data.dataset)):
        a, b = (m.test_step(data.batch(index))[0].pred_score for m in (exact, small))
        assert 1e-4 < (a - b).abs().max() < 0.05


@pytest.mark.slow
def test_detector_in_8_bits(quantizers, project, tool):
    """In ONNX Runtime the RPN's two maps on each of five levels are not in 8 bits.

    Random weights give all proposals nearly one score: rounding decides which of them are kept.
    """
    cfg = two_stage(masks=False)
    write_onnx(cfg, CLASSES)
    data = ValidationData(cfg)
    for suffix, in_float in ((".onnx", 10), (".xml", CONSTANT)):
        file, quantized, layers = quantize(tool, suffix)
        assert layers - quantized == in_float and quantized > 30
        exact, small = (load_deployed(cfg, name, RUNTIMES[suffix]) for name in ("model.onnx", file))
        assert small.file.names == ["dets", "labels"] and small.file.meta == exact.file.meta
        for index in range(len(data.dataset)):
            a, b = (m.test_step(data.batch(index))[0].pred_instances for m in (exact, small))
            assert len(a) == len(b) > 0
            height, width = data.dataset[index]["data_samples"].ori_shape
            limits = torch.tensor([width, height, width, height]) + 0.1
            assert (
                b.bboxes.isfinite().all() and (b.bboxes >= 0).all() and (b.bboxes <= limits).all()
            )


@pytest.mark.slow
def test_layers_that_cost_most_stay_in_float(quantizers, project, tool, monkeypatch):
    """The metric here is 1 less the distance from the exact scores."""
    cfg = Config.fromfile(CLASSIFIER)
    write_onnx(cfg, CLASSES)
    exact, data = load_deployed(cfg, "model.onnx", "openvino"), ValidationData(cfg)
    expected = [exact.test_step(data.batch(i))[0].pred_score for i in range(6)]

    def evaluate(self, model, indices, metric):
        found = [model.test_step(self.batch(i))[0].pred_score - expected[i] for i in indices]
        return 1 - float(torch.stack(found).abs().max())

    monkeypatch.setattr(ValidationData, "evaluate", evaluate)
    file, quantized, layers = quantize(tool, ".xml")
    drop = 1 - evaluate(data, load_deployed(cfg, file), range(6), "")
    file.rename("all.xml"), file.with_suffix(".bin").rename("all.bin")
    file, fewer, _ = quantize(tool, ".xml", "--max-drop", drop / 2)
    assert 0 < fewer < quantized
    assert 1 - evaluate(data, load_deployed(cfg, file), range(6), "") <= drop / 2


def test_metric_that_cannot_fall(quantizers, project, tool, monkeypatch):
    write_onnx(Config.fromfile(CLASSIFIER), CLASSES)
    monkeypatch.setattr(ValidationData, "evaluate", lambda *_: 0.0)
    status, printed = tool("quantize", "model.py", "model.onnx", "small.xml", "--max-drop", "1")
    assert status == 2 and "accuracy/top1 of model.onnx on the validation set is 0" in printed
    monkeypatch.setattr(ValidationData, "evaluate", lambda *_: 0.538)
    status, printed = tool("quantize", "model.py", "model.onnx", "small.xml", "--max-drop", "0.5")
    assert status == 2 and "--max-drop 0.5 is more than a quarter" in printed
    assert not Path("small.xml").exists()


def test_metric_of_some_images(onnx, project):
    cfg = Config.fromfile(CLASSIFIER)
    write_onnx(cfg, CLASSES)
    model, data = load_deployed(cfg, "model.onnx"), ValidationData(cfg)
    right = []
    for index in range(3):
        sample = model.test_step(data.batch(index))[0]
        right.append(bool(sample.pred_label == sample.gt_label))
    assert data.evaluate(model, range(3), "accuracy/top1") == pytest.approx(100 * np.mean(right))
    assert data.spread(3) == [0, 2, 5] and data.spread(300) == list(range(6))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ("model.onnx small.pt2", "the ending says the format; allowed: .onnx, .xml"),
        ("none.onnx small.onnx", "none.onnx does not exist"),
        ("model.onnx model.onnx", "model.onnx exists already"),
        ("model.onnx small.onnx --max-drop 1", "--max-drop is for .xml files"),
        ("model.onnx small.onnx --metric mIoU", "--metric is the metric of --max-drop"),
        ("model.onnx small.onnx --images 0", "--images: received 0; allowed is 1 or more"),
        (
            "model.onnx small.onnx --cfg-options val_dataloader.dataset.indices=0",
            "has no image left: indices=0",
        ),
        ("model.onnx small.onnx", "model.onnx, no file with results that onnxruntime runs"),
    ],
)
def test_bad_arguments(arguments, said, onnx, project, tool):
    Path("model.onnx").write_text("mine")
    before = sorted(os.listdir())
    status, printed = tool("quantize", CLASSIFIER, *arguments.split())
    assert status == 2 and said in printed and "Traceback" not in printed, printed
    assert sorted(os.listdir()) == before and Path("model.onnx").read_text() == "mine"


def test_missing_nncf_is_named(onnx, project, tool, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is not installed: the extra [openvino]")
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "nncf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    Path("model.onnx").write_text("mine")
    status, printed = tool("quantize", CLASSIFIER, "model.onnx", "small.xml")
    assert status == 2 and "Quantising needs nncf. Install: pip install nncf" in printed
    assert 'pip install ".[quantize]"' in printed
