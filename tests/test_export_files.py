"""Whole files of networks' own outputs that tools/export.py writes: run, read and compared."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import BLOCKS
from exports import CLASSIFIER, MODELS, SIZES, holder, save
from helpers import NARROW, VARIANTS, build, randomise
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.export import raw_outputs as export
from mmdualtoken.export.formats import FORMATS, RUNTIMES, Onnx, Pt2


def check_export(tool, name, file, *options, runtime="onnxruntime"):
    """Export a trained model with the tool, and compare the file with PyTorch once more."""
    cfg = MODELS[name][0]()
    model = save(cfg, classes=("a", "b", "c", "d", "e"))
    if Path(file).suffix == ".onnx":
        options += ("--runtime", runtime, "--raw-outputs")
    status, printed = tool("export", "model.py", "trained.pth", file, *options)
    assert status == 0, printed
    differences = [float(x) for x in re.findall(r"differs from PyTorch by (\S+)", printed)]
    assert len(differences) == 3 and max(differences) < export.TOLERANCE
    eager = export.RawOutputs(model, cfg.default_scope).eval()
    kind = RUNTIMES[runtime] if Path(file).suffix == ".onnx" else FORMATS[Path(file).suffix]
    run = kind.load(Path(file), 1)
    sizes = SIZES if kind is not Pt2 else [size for size in SIZES if min(size[1:]) > 32]
    if name == "rtmdet":  # its neck takes multiples of 32 alone, in PyTorch too
        sizes = [(1, 64, 64), (2, 32, 96)]
    assert max(export.deviation(eager, run, size) for size in sizes) < export.TOLERANCE
    made = {path.name for path in Path().iterdir()}
    assert made == {"data", "model.py", file, "trained.pth"}
    return printed


def read_onnx(file):
    """Names of its outputs, and its metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [out.name for out in session.get_outputs()], session.get_modelmeta().custom_metadata_map


def read_pt2(file):
    files = {"metadata.json": ""}
    torch.export.load(file, extra_files=files)
    meta = json.loads(files["metadata.json"])
    return json.loads(meta.pop("output_names")), meta


READ = {".onnx": read_onnx, ".pt2": read_pt2}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_tool_writes_a_trained_model(suffix, onnx, project, tool):
    printed = check_export(tool, "classifier", f"model{suffix}", "--rounds", "1")
    runtime = FORMATS[suffix].runtime
    assert re.search(rf"{runtime} takes \d+\.\d+ of PyTorch's eager time", printed)
    names, meta = READ[suffix](f"model{suffix}")
    assert names == ["logits"]
    assert meta["config"] == "model.py" and meta["channel_order"] == "rgb"
    assert meta["input"].endswith("any size" if suffix == ".onnx" else "from 33 pixels on")
    assert json.loads(meta["mean"]) == [128.0] * 3 and json.loads(meta["std"]) == [64.0] * 3
    assert json.loads(meta["classes"]) == ["a", "b", "c", "d", "e"]


@pytest.mark.slow
def test_pt2_refuses_small_images(tmp_path):
    eager = holder(randomise(build().eval()))
    Pt2.save(export.record(eager, sizes=Pt2.sizes), ["map_0"], {}, tmp_path / "model.pt2")
    run = Pt2.load(tmp_path / "model.pt2", 1)
    assert export.deviation(eager, run, (1, 33, 224)) < export.TOLERANCE
    with pytest.raises(InputError, match=r"does not take images of \(1, 3, 32, 64\)"):
        run(torch.zeros(1, 3, 32, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, suffix",
    [(name, ".onnx") for name in MODELS if name != "classifier"]
    + [(name, ".pt2") for name in ("fcn", "deeplab", "psp")],
)
def test_tool_writes_every_model(name, suffix, onnx, project, tool):
    check_export(tool, name, f"model{suffix}", "--rounds", "0")
    names, meta = READ[suffix](f"model{suffix}")
    assert names == MODELS[name][1]
    bgr = ("fcn", "deeplab", "psp", "rtmdet")
    assert meta["channel_order"] == ("bgr" if name in bgr else "rgb")
    assert ("multiples of 32" in meta["input"]) == (name == "rtmdet")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_openvino_runs_every_model(name, onnx, project, tool):
    pytest.importorskip("openvino", reason="openvino is not installed: the extra [openvino]")
    printed = check_export(tool, name, "model.onnx", "--rounds", "1", runtime="openvino")
    assert re.search(r"OpenVINO takes \d+\.\d+ of PyTorch's eager time", printed)


@pytest.mark.slow
def test_channels_and_a_binary_head_are_described(onnx, project, tool):
    """Four channels; one map of logits, of which argmax would be 0 everywhere."""
    cfg = MODELS["fcn"][0]()
    cfg.model.backbone.in_channels = 4
    cfg.model.data_preprocessor.update(mean=None, std=None)
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.4, loss_decode=loss)
    save(cfg, classes=("a", "b"))
    options = ("--raw-outputs", "--rounds", "1")
    status, printed = tool("export", "model.py", "trained.pth", "model.onnx", *options)
    assert status == 0 and "1x4x64x64, 1 thread:" in printed, printed
    meta = read_onnx("model.onnx")[1]
    assert meta["input"].startswith("images (batch, 4, height, width)")
    assert "sigmoid and the threshold 0.4" in meta["outputs"] and "argmax" not in meta["outputs"]
    assert json.loads(meta["mean"]) == [0.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn", "retinanet"])
def test_pt2_takes_of_detectors_the_backbone(name, project, tool):
    save(MODELS[name][0]())
    command = ("export", "model.py", "trained.pth", "model.pt2", "--rounds", "0")
    status, printed = tool(*command)
    assert status == 2 and "whole detectors as .onnx alone" in printed, printed
    assert not Path("model.pt2").exists()
    status, printed = tool(*command, "--backbone")
    assert status == 0, printed


def test_gelu_is_one_operator(onnx, tmp_path):
    """In five steps it took a fifth of ONNX Runtime's time."""
    import onnx as package

    Onnx.save(export.record(holder(nn.GELU())), ["map_0"], {}, tmp_path / "gelu.onnx")
    graph = package.load(tmp_path / "gelu.onnx").graph
    shape = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 3, "height", "width"]
    assert "Gelu" in {node.op_type for node in graph.node}
    assert "Erf" not in {node.op_type for node in graph.node}


RUNS_A_FILE = [b for b in BLOCKS if b.language == "python" and '"model.onnx", ' in b.text]


@pytest.mark.parametrize("block", RUNS_A_FILE, ids=lambda block: block.id)
def test_documented_code_runs_a_file(block, onnx, here):
    assert len(RUNS_A_FILE) == len(RUNTIMES)
    if "openvino" in block.text:
        pytest.importorskip("openvino", reason="openvino is not installed: the extra [openvino]")
    metadata = dict(mean="[1, 1, 1]", std="[2, 2, 2]")
    file = here / "model.onnx"
    Onnx.save(export.record(holder(nn.GELU())), ["logits"], metadata, file)
    ran = {}
    exec(compile(block.text, block.id, "exec"), ran)
    assert ran["images"].dtype == np.float32
    expected = nn.functional.gelu(torch.from_numpy(ran["images"]))
    assert list(ran["outputs"]) == ["logits"]
    torch.testing.assert_close(torch.from_numpy(ran["outputs"]["logits"]), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "fcn"])
def test_int8(name, onnx, project, tool):
    """Smaller, near the exact outputs but not equal, described as before, standard operators."""
    pytest.importorskip("openvino", reason="openvino is not installed: the extra [openvino]")
    import onnx as package

    cfg = MODELS[name][0]()
    eager = export.RawOutputs(save(cfg, classes=("a", "b")), cfg.default_scope).eval()
    command = ("export", "model.py", "trained.pth")
    assert tool(*command, "exact.onnx", "--rounds", "0", "--raw-outputs")[0] == 0
    status, printed = tool(*command, "small.onnx", "--rounds", "0", "--raw-outputs", "--int8")
    assert status == 0 and "in 8 bits: compare the accuracy" in printed, printed
    for runtime in RUNTIMES.values():
        run = runtime.load(Path("small.onnx"), 1)
        found = [export.deviation(eager, run, size) for size in SIZES]
        assert export.TOLERANCE < max(found) < 0.1, runtime.runtime
    assert Path("small.onnx").stat().st_size < Path("exact.onnx").stat().st_size
    assert read_onnx("small.onnx") == read_onnx("exact.onnx")
    graph = package.load("small.onnx").graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert "MatMulInteger" in {node.op_type for node in graph.node}
    status, printed = tool(*command, "small.pt2", "--int8")
    assert status == 2 and "--int8 is for .onnx files alone" in printed


@pytest.mark.slow
def test_options(onnx, project, tool):
    command = ("export", CLASSIFIER, "none", "model.onnx", "--rounds", "0")
    status, printed = tool(*command, "--backbone", "--no-deploy")
    assert status == 0 and "Outputs: map_0\n" in printed, printed
    status, printed = tool(*command, "--overwrite")
    assert status == 0 and "Outputs: scores\n" in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in VARIANTS if not n.startswith(("tiny", "small"))])
def test_every_variant(name, onnx, tmp_path):
    arch = dict(NARROW, depths=(1, 1, 1))
    eager = holder(randomise(build(**{"arch": arch, **VARIANTS[name]}).eval()))
    names = list(eager.named(torch.zeros(1, 3, 32, 32)))
    Onnx.save(export.record(eager), names, {}, tmp_path / "backbone.onnx")
    assert not eager.model.backbone.deployed  # a copy was switched
    run = Onnx.load(tmp_path / "backbone.onnx", 1)
    assert max(export.deviation(eager, run, size) for size in SIZES) < export.TOLERANCE
