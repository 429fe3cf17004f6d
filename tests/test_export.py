"""tools/export.py: one file for all sizes, checked, described, never over another."""

import builtins
import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from exports import CLASSIFIER, FCN, SIZES, holder, save
from helpers import Runs, build, rand, randomise
from mmengine.config import Config
from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.export import raw_outputs as export
from mmdualtoken.export.formats import RUNTIMES, Onnx
from mmdualtoken.models.blocks import WindowAttention
from mmdualtoken.models.stem import PatchMerging, Stem, resize_map


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
        ("model.pt2 --with-runner", "--with-runner is for .onnx files that end in results"),
        ("model.pt2 --runtime openvino", "--runtime openvino is for .onnx files alone"),
        ("model.onnx --backbone --raw", "--raw is for .onnx files that end in results"),
    ],
)
def test_tool_refuses(out, said, project, tool):
    Path("there.onnx").write_text("mine")
    status, printed = tool("export", FCN, "none", *out.split())
    assert status == 2 and said in printed and "Traceback" not in printed
    assert Path("there.onnx").read_text() == "mine"


@pytest.mark.parametrize("runtime, extra", [("onnxruntime", "export"), ("openvino", "openvino")])
def test_missing_packages_are_named(runtime, extra, onnx, project, tool, monkeypatch):
    real = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == runtime:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    status, printed = tool("export", FCN, "none", "model.onnx", "--runtime", runtime)
    assert status == 2
    assert f"Exporting needs {runtime}. Install: pip install {runtime}" in printed
    assert f'pip install ".[{extra}]"' in printed


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
    options = ("--overwrite", "--raw-outputs")
    status, printed = tool("export", CLASSIFIER, "none", "model.onnx", *options)
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
    said = r"^backbone \(Decides\) cannot be recorded for all image sizes: .*--raw-outputs"
    with pytest.raises(InputError, match=said):
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


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_file_serves_all_sizes(runtime, onnx, tmp_path):
    pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    part = holder(randomise(Part()))
    path = tmp_path / "part.onnx"
    Onnx.save(export.record(part), ["map_0", "map_1"], dict(config="none"), path)
    run = RUNTIMES[runtime].load(path, 1)
    assert max(export.deviation(part, run, size) for size in SIZES) < export.TOLERANCE
    first, image = run(torch.ones(1, 3, 64, 64))[0], torch.zeros(1, 3, 64, 64)
    before = first.clone()
    assert not torch.equal(run(image)[0], before) and torch.equal(first, before)
