"""tools/export.py: one file for all sizes, checked, described, never over another."""

import builtins
import json
import os
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers import NARROW, VARIANTS, build, rand, randomise
from mmengine.config import Config
from tasks import TASKS
from torch import nn

from mmdualtoken.engine import export
from mmdualtoken.engine.errors import InputError
from mmdualtoken.engine.export_formats import FORMATS, Onnx, Pt2
from mmdualtoken.layers import PatchMerging, Stem, WindowAttention
from mmdualtoken.layers.downsample import resize_map
from mmdualtoken.report.measure import build_model

ROOT = Path(__file__).resolve().parent.parent
SIZES = [*export.CHECKED, (1, 64, 64), (2, 8, 9)]
CLASSIFIER, FCN = TASKS["classification"][0], TASKS["segmentation"][0]


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [export]")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: the extra [export]")


def holder(backbone):
    """A backbone as the tools hold it."""
    module = nn.Module()
    module.backbone = backbone
    return export.RawOutputs(module, "mmpretrain", backbone_only=True).eval()


def retinanet():
    cfg = Config.fromfile(ROOT / "configs/mmdet/retinanet_dualtoken_s_1x.py")
    cfg.model.backbone.arch = NARROW
    cfg.model.neck.update(in_channels=list(NARROW["embed_dims"]), out_channels=16)
    cfg.model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3)
    return cfg


def segmentor(**head):
    cfg = Config.fromfile(FCN)
    cfg.model.decode_head.pop("num_convs")
    cfg.model.decode_head.update(head)
    return cfg


def levels(*names):
    return [f"{name}_{i}" for name in names for i in range(5)]


MODELS = dict(
    classifier=(lambda: Config.fromfile(CLASSIFIER), ["logits"]),
    fcn=(lambda: Config.fromfile(FCN), ["logits"]),
    deeplab=(lambda: segmentor(type="ASPPHead", dilations=(1, 2, 4)), ["logits"]),
    psp=(lambda: segmentor(type="PSPHead", pool_scales=(1, 2, 3, 6)), ["logits"]),
    maskrcnn=(
        lambda: Config.fromfile(TASKS["detection"][0]),
        levels("map", "rpn_cls", "rpn_bbox"),
    ),
    retinanet=(retinanet, levels("cls_score", "bbox_pred")),
)


def save(cfg, classes=()):
    """Write model.py and trained.pth, with weights that hide nothing; return the model."""
    cfg.dump("model.py")
    model = randomise(build_model(cfg))
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), "trained.pth")
    return model


# ---------------------------------------------------------------- pooling, comparing, refusing


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (16, 16), (37, 91)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6, (3, 5)])
def test_interval_pool_is_adaptive_pooling(cells, size):
    x = rand(2, 4, *size)
    torch.testing.assert_close(
        export.IntervalPool(cells)(x), nn.AdaptiveAvgPool2d(cells)(x), rtol=1e-12, atol=1e-12
    )


def test_the_largest_difference_is_found():
    eager = holder(randomise(build().eval()))
    other = deepcopy(eager.model.backbone)
    size = export.CHECKED[0]
    assert export.deviation(eager, other, size) == 0
    with torch.no_grad():
        other.norm2.bias[0] += 0.1
    generator = torch.Generator().manual_seed(sum(size))
    with torch.no_grad():
        last = eager(torch.randn(size[0], 3, *size[1:], generator=generator))[-1]
    assert export.deviation(eager, other, size) == pytest.approx(
        0.1 / last.abs().max().item(), 1e-3
    )
    assert export.deviation(eager, lambda x: [o[..., 1:] for o in other(x)], size) == float("inf")


@pytest.mark.parametrize(
    "out, said",
    [
        ("there.onnx", "exists already. Give another name, or --overwrite"),
        ("model.pth", "the ending says the format; allowed: .onnx, .pt2"),
        ("nowhere/model.onnx", "the folder does not exist"),
    ],
)
def test_tool_refuses(out, said, project, tool):
    Path("there.onnx").write_text("mine")
    status, printed = tool("export", FCN, "none", out)
    assert status == 2 and said in printed and "Traceback" not in printed
    assert Path("there.onnx").read_text() == "mine"


def test_missing_packages_are_named(project, tool, monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    status, printed = tool("export", FCN, "none", "model.onnx")
    assert status == 2
    assert "Exporting needs onnxruntime. Install: pip install onnxruntime" in printed


class Runs:
    """What a checkpoint must not be able to do."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_tool_refuses_checkpoints(onnx, project, tool):
    save(Config.fromfile(FCN))
    status, printed = tool("export", CLASSIFIER, "trained.pth", "model.onnx")
    assert status == 2 and "is of another model than the config's" in printed
    torch.save(dict(state_dict=Runs()), "evil.pth")
    status, printed = tool("export", FCN, "evil.pth", "model.onnx")
    assert status == 2 and "could run code" in printed
    assert not Path("pwned").exists()
    status, printed = tool("export", FCN, "missing.pth", "model.onnx")
    assert status == 2 and "missing.pth does not exist" in printed
    assert not Path("model.onnx").exists()


def test_tool_leaves_no_file_that_differs(onnx, project, tool, monkeypatch):
    monkeypatch.setattr(export, "record", lambda *args, **kwargs: None)
    monkeypatch.setattr(Onnx, "save", lambda *args: args[-1].write_text("wrong"))
    monkeypatch.setattr(Onnx, "load", lambda *args: lambda x: [x.new_ones(len(x), 4)])
    Path("model.onnx").write_text("mine")
    before = sorted(os.listdir())
    status, printed = tool("export", CLASSIFIER, "none", "model.onnx", "--overwrite")
    assert status == 2 and "model.onnx was not written: its outputs differ" in printed
    assert sorted(os.listdir()) == before and Path("model.onnx").read_text() == "mine"


class Bessel(nn.Module):
    """An operator that ONNX lacks."""

    def forward(self, x):
        return (torch.special.bessel_j0(x),)


class Decides(nn.Module):
    """Code that depends on values."""

    def forward(self, x):
        return (x if x.sum() > 0 else -x,)


def test_what_cannot_be_exported_is_named(onnx, tmp_path):
    program = export.record(holder(Bessel()), deploy=False)
    with pytest.raises(InputError, match=r"cannot be written as ONNX.*bessel_j0"):
        Onnx.save(program, ["map_0"], {}, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be recorded for all image sizes"):
        export.record(holder(Decides()), deploy=False)


class Part(nn.Module):
    """What of a backbone depends on the image's size most, in little: odd maps, windows, a grid."""

    def __init__(self):
        super().__init__()
        self.stem, self.merging = Stem(3, 16), PatchMerging(16, 24)
        self.windows = WindowAttention(24, 2, 7)

    def forward(self, x):
        x = self.windows(self.merging(self.stem(x)))
        return x.permute(0, 3, 1, 2), resize_map(x, (7, 7)).permute(0, 3, 1, 2)


def test_one_file_serves_all_sizes(onnx, tmp_path):
    part = holder(randomise(Part()))
    path = tmp_path / "part.onnx"
    Onnx.save(export.record(part), ["map_0", "map_1"], dict(config="none"), path)
    run = Onnx.load(path, 1)
    assert max(export.deviation(part, run, size) for size in SIZES) < export.TOLERANCE


# ---------------------------------------------------------------- whole files


def check_export(tool, name, file, *options):
    """Export a trained model with the tool, and compare the file with PyTorch once more."""
    cfg = MODELS[name][0]()
    model = save(cfg, classes=("a", "b", "c", "d", "e"))
    status, printed = tool("export", "model.py", "trained.pth", file, *options)
    assert status == 0, printed
    differences = [float(x) for x in re.findall(r"differs from PyTorch by (\S+)", printed)]
    assert len(differences) == 3 and max(differences) < export.TOLERANCE
    eager = export.RawOutputs(model, cfg.default_scope).eval()
    kind = FORMATS[Path(file).suffix]
    run = kind.load(Path(file), 1)
    sizes = SIZES if kind is Onnx else [size for size in SIZES if min(size[1:]) > 32]
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
    assert meta["channel_order"] == ("rgb" if name in ("maskrcnn", "retinanet") else "bgr")


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
    assert "Gelu" in {node.op_type for node in graph.node}
    assert "Erf" not in {node.op_type for node in graph.node}


@pytest.mark.slow
def test_options(onnx, project, tool):
    command = ("export", CLASSIFIER, "none", "model.onnx", "--rounds", "0")
    status, printed = tool(*command, "--backbone", "--no-deploy")
    assert status == 0 and "Outputs: map_0\n" in printed, printed
    before = Path("model.onnx").read_bytes()
    assert tool(*command)[0] == 2
    assert Path("model.onnx").read_bytes() == before
    status, printed = tool(*command, "--overwrite")
    assert status == 0 and "Outputs: logits\n" in printed, printed


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
