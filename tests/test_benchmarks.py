"""The speed benchmarks: what they compute from times, what they time, and what they write."""

import csv
import json
import math
import sys
from importlib import import_module as load

import pytest
import torch
from helpers import build
from mmengine.logging import MMLogger
from torch import nn

CPU = torch.device("cpu")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark here, with small limits: run('speed', ...) -> (exit status, output)."""
    machine = load("suite.machine")
    monkeypatch.setattr(machine, "GEMM_SIZES", (32, 64))
    monkeypatch.setattr(machine, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(load("suite.timing"), "SHORTEST", 0.0)

    def call(name, *args):
        monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", *map(str, args)])
        MMLogger._instance_dict.clear()  # an earlier test's writes to a stream that is closed
        module, status = load(name), 0
        try:
            module.run_tool(module.main)
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


def rows_of(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_candidates_take_turns(monkeypatch):
    timing, calls = load("suite.timing"), []
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = timing.alternate(functions, rounds=4, device=CPU, warmup=2)
    assert {name: len(taken) for name, taken in seconds.items()} == dict(a=4, b=4, c=4)
    assert calls[:9] == ["a"] * 3 + ["b"] * 3 + ["c"] * 3  # two to warm up, one to see how long
    rounds = [calls[i : i + 3] for i in range(9, 21, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_short_calls_are_repeated(monkeypatch):
    timing, calls = load("suite.timing"), []
    monkeypatch.setattr(timing, "SHORTEST", 1.0)
    monkeypatch.setattr(timing, "Clock", lambda *_: lambda function, calls=1: 0.1 * calls)
    seconds = timing.alternate({"a": lambda: calls.append(1)}, rounds=1, device=CPU)
    assert seconds == {"a": [1.0]}  # ten calls in one measurement


def test_ratio_is_taken_within_a_round():
    ratio = load("suite.timing").ratio
    # A machine that grows three times as slow changes no ratio.
    assert ratio([2, 6, 18, 2, 6], [1, 3, 9, 1, 3]) == (2, 2, 2)
    assert ratio([1, 2, 3, 4, 5], [1] * 5) == (3, 2, 4)
    assert ratio([3], [2]) == (1.5, 1.5, 1.5)


def test_limit_is_the_best_product_of_each_round():
    seconds = {"gemm 1": [1.0, 2.0], "gemm 2": [4.0, 4.0], "other": [0.1, 0.1]}
    assert load("suite.machine").limits(seconds, {"gemm 1": 8.0, "gemm 2": 20.0}) == [8, 5]


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent(power):
    pixels = [1, 2, 5, 20]
    values = [3 * p**power for p in pixels]
    assert load("growth").exponent(pixels, values) == pytest.approx(power)


@pytest.mark.parametrize("count", [1, 4])
def test_peak_memory(count):
    """Tensors that live at the same time count, what is given back before does not."""

    def step():
        for _ in range(3):
            held = [torch.empty(1 << 18) for _ in range(count)]  # 1 MiB each
            del held

    assert load("growth").peak_memory(step, CPU) == pytest.approx(count, rel=0.01)


def test_memory_of_a_training_step_falls_with_cp():
    growth, variants, peaks = load("growth"), load("suite.variants"), []
    for with_cp in (False, True):
        model = build(with_cp=with_cp)
        step = variants.training_step(model, torch.randn(1, 3, 96, 96), "eager", "fp32")
        step()  # the optimizer's state is no activation
        peaks.append(growth.peak_memory(step, CPU))
    assert peaks[1] < peaks[0]


class Small(nn.Module):
    """A model with a fused form."""

    def __init__(self):
        super().__init__()
        self.scale, self.fused = nn.Parameter(torch.ones(3)), False

    def switch_to_deploy(self):
        self.fused = True

    def forward(self, x):
        return x.mean((2, 3)) * self.scale


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("aoti", "compiled")]


@pytest.mark.parametrize("variant", ["eager", "channels_last", "fused", "onnx", "openvino", *SLOW])
def test_variants_run_the_same_model(onnx, variant):
    if variant == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed: the extra [openvino]")
    variants, images = load("suite.variants"), torch.randn(2, 3, 8, 8)
    model = Small().eval()
    out = variants.inference(model, images, variant, "fp32")()
    out = out[0] if isinstance(out, list) else out
    assert torch.allclose(out, images.mean((2, 3)), atol=1e-6) and not out.requires_grad
    assert not model.fused  # the candidate beside it is the model as it was


def test_bf16_beside_fp32():
    variants, model, x = load("suite.variants"), torch.nn.Linear(4, 2), torch.randn(3, 4)
    run = {v: variants.inference(model, x, v, "fp32") for v in ("eager", "bf16")}
    assert run["eager"]().dtype == torch.float32 and run["bf16"]().dtype == torch.bfloat16


def test_random_weights_leave_no_gate_shut():
    peers = load("suite.peers")
    model = peers.randomise(peers.PEERS["dualtoken_t"].dense())
    gammas = [p for name, p in model.named_parameters() if name.endswith("gamma")]
    assert gammas and min(p.abs().min() for p in gammas) >= 0.5


def test_speed(run, tmp_path):
    out = tmp_path / "out"
    size = ["--shape", 32, "--rounds", 2, "--out", out]
    status, printed = run("speed", "--models", "resnet18", "dualtoken_t", *size)
    assert status == 0, printed
    rows = rows_of(out / "speed.csv")
    assert {row["model"] for row in rows} == {"dualtoken_s", "dualtoken_t", "resnet18"}
    times = [float(row["time"]) for row in rows]
    assert times == sorted(times)  # what is faster than ours comes first
    ours = next(row for row in rows if row["model"] == "dualtoken_s")
    assert float(ours["time"]) == 1 and float(ours["params M"]) == pytest.approx(11.39, abs=0.01)
    assert all(float(row["of limit"]) > 0 for row in rows)
    record = json.loads((out / "machine.json").read_text())
    assert {"date", "command", "hardware", "versions", "limits"} <= set(record)
    assert (out / "speed.png").stat().st_size > 1000
    status, printed = run("speed", "--models", "resnet18", *size)
    assert status == 2 and "Name a folder that is new or empty." in printed
    assert rows_of(out / "speed.csv") == rows


def test_speed_says_what_it_could_not_run(run, tmp_path):
    args = ["--models", "efficientformer_l1", "--dense", "--shape", 64, 96, "--rounds", 1]
    status, printed = run("speed", *args, "--out", tmp_path / "out")
    assert status == 0 and "not run: efficientformer_l1" in printed
    assert "not run" in json.loads((tmp_path / "out" / "machine.json").read_text())


def test_growth(run, tmp_path):
    args = ["--models", "dualtoken_t", "--sizes", "64", "64x96", "--rounds", 1]
    status, printed = run("growth", *args, "--out", tmp_path / "out")
    assert status == 0, printed
    rows = rows_of(tmp_path / "out" / "growth.csv")
    assert [row["size"] for row in rows] == ["64", "64x96", "224"]
    for row in rows:
        height, _, width = row["size"].partition("x")
        pixels = int(height) * int(width or height) / 224**2
        assert math.isclose(float(row["pixels"]), pixels)


@pytest.mark.parametrize(
    "system, variants",
    [
        ("rtmdet", ["eager"]),
        ("deeplabv3", ["eager"]),
        pytest.param("maskrcnn", ["eager"], marks=pytest.mark.slow),
        pytest.param("segformer", ["openvino", "openvino-int8"], marks=pytest.mark.slow),
    ],
)
def test_systems(system, variants, run, tmp_path, monkeypatch):
    """Of the smallest two; test_configs.py builds the others."""
    systems = load("systems").SYSTEMS
    names = [name for name in systems[system] if name in ("dualtoken_s", "dualtoken_t")]
    assert {*names, "resnet18", "mobilenet_v2"} <= set(systems[system])
    monkeypatch.setitem(systems, system, {name: systems[system][name] for name in names})
    args = ["--system", system, "--shape", 64, 96, "--rounds", 1, "--variants", *variants]
    status, printed = run("systems", *args, "--out", tmp_path / "out")
    assert status == 0, printed
    rows = rows_of(tmp_path / "out" / "systems.csv")
    found = {(row["model"], row["variant"]) for row in rows}
    assert found == {(n, v) for n in names for v in {"eager", *variants}}
    first = [r for r in rows if (r["model"], r["variant"]) == (names[0], "eager")]
    assert [float(row["time"]) for row in first] == [1]


@pytest.mark.parametrize(
    "name, args, words",
    [
        ("growth", ["--sizes", "16"], "numbers from 32 on"),
        ("growth", ["--sizes", "axb"], "--sizes axb"),
        ("growth", ["--models", "resnet18", "--with-cp"], "ours alone"),
        ("growth", ["--with-cp"], "add --step training"),
        ("speed", ["--models", "resnet"], "unknown; allowed"),
        ("speed", ["--step", "training", "--variants", "fused"], "for inference only"),
    ],
)
def test_bad_arguments(run, tmp_path, name, args, words):
    status, printed = run(name, *args, "--rounds", 1, "--out", tmp_path / "out")
    assert status == 2 and words in printed and "Traceback" not in printed
