"""Curves, pictures and the summary of a training."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import torch
from helpers import log_lines
from mmengine.hooks import CheckpointHook, LoggerHook
from mmengine.runner import get_priority
from mmseg.engine import SegVisualizationHook
from tasks import SHORT, TASKS
from torch.utils.data import DataLoader

from mmdualtoken.training.monitoring import (
    MonitoringHook,
    PeakMemoryHook,
    _peak_memory,
    add_monitoring,
    averaged,
    draw_curves,
)
from mmdualtoken.weights.checkpoints import load_file

MAIN = dict(detection="coco/segm_mAP", segmentation="mIoU", classification="accuracy/top1")
CLASSIFIER = TASKS["classification"][0]


@pytest.mark.parametrize("task", TASKS)
def test_training_can_be_watched(task, trained, tool):
    """curves.png, pictures of each evaluation, TensorBoard's file, and a summary that holds."""
    printed = trained(task)
    assert cv2.imread("run/curves.png").shape[1] == 3 * 540
    pictures = list(Path("run").glob("*/vis_data/vis_image/*.png"))
    assert 4 <= len(pictures) <= 12  # 6 images, 2 evaluations; some toolboxes draw whole batches
    assert list(Path("run").glob("*/vis_data/events.out.tfevents*"))
    unit, step = ("epoch", 2) if task == "classification" else ("iter", 4)
    noun = "2 epochs" if unit == "epoch" else "4 iterations"
    assert re.search(rf"Training is done: {noun} in \d:\d\d:\d\d, at most \d+\.\d\d GiB", printed)
    value = re.search(rf"last evaluation \({unit} {step}\):.*{MAIN[task]} (\S+?),?\s", printed)[1]
    log = printed.partition("Training is done")[0]  # the summary names the best value alike
    logged = re.findall(rf"{MAIN[task]}: (-?\d\S*)", log)
    assert float(value) == pytest.approx(float(logged[-1]), rel=1e-3)
    best = re.search(rf"best {MAIN[task]}: (\S+) at {unit} (\d), (run/\S+)", printed)
    assert float(best[1]) == pytest.approx(max(map(float, logged)), rel=1e-3)
    assert best[3] == f"run/{unit}_{best[2]}.pth" and Path(best[3]).is_file()
    command = re.search(r"test it: (python .*)", printed)[1].split()
    assert command[0] == "python" and command[3] == best[3]
    assert Path(command[1]).name == "test.py" and Path(command[1]).is_file()
    if task == "classification":
        assert tool("test", *command[2:], "--work-dir", "eval")[0] == 0


def test_peak_memory_of_a_gpu(monkeypatch):
    """Of the whole run: each line of MMEngine's log starts the count of PyTorch again."""
    hook, counts = PeakMemoryHook(), iter([2**30, 3 * 2**30, 2**29])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(counts))
    for _ in range(3):
        hook.after_train_iter(None)
    assert _peak_memory(SimpleNamespace(hooks=[hook])) == "3.00 GiB of a GPU"
    assert get_priority(hook.priority) < get_priority(LoggerHook.priority)


def evaluations():
    return json.loads(Path("run/evaluations.json").read_text())


def test_a_resumed_run_keeps_its_curves(trained, tool):
    """The evaluation after the checkpoint is kept; one from after the step resumed at is not."""
    trained("classification")
    first = evaluations()
    assert [entry["step"] for entry in first] == [1, 2]

    def train(flags, epochs):
        options = [f"train_cfg.max_epochs={epochs}", "train_cfg.val_interval=1"]
        arguments = [CLASSIFIER, "--work-dir", "run", *flags, "--cfg-options", *options]
        assert tool("train", *arguments)[0] == 0
        return evaluations()

    again = train(["--resume", "run/epoch_1.pth"], 3)
    assert [entry["step"] for entry in again] == [1, 2, 3]
    assert again[0] == first[0] and again[2]["metrics"].keys() == first[1]["metrics"].keys()
    hub = load_file("run/epoch_3.pth")["message_hub"]
    assert len(hub["log_scalars"]["train/loss"].data[0]) == 3 * 2
    assert [entry["step"] for entry in train(["--overwrite"], 1)] == [1]


def test_pictures_that_the_config_asks_for_stay_as_they_are():
    hooks = [SegVisualizationHook(draw=True, interval=100), SegVisualizationHook(interval=100)]
    MonitoringHook().before_val(SimpleNamespace(hooks=hooks, val_dataloader=DataLoader(range(9))))
    assert [(hook.draw, hook.interval) for hook in hooks] == [(True, 100), (True, 3)]


def test_without_evaluations_and_checkpoints(project, tool):
    none = [f"val_{name}=None" for name in ("cfg", "dataloader", "evaluator")]
    status, printed = tool("train", CLASSIFIER, "--work-dir", "run", "--cfg-options", *none)
    assert status == 0 and "last evaluation" not in printed and "best" not in printed
    assert re.search(r"test it: python .* run/epoch_1\.pth", printed)
    assert cv2.imread("run/curves.png").shape[1] == 2 * 540


@pytest.mark.parametrize("metric", ["aAcc", "mIoU"])
def test_best_checkpoint_is_of_the_metric(metric, here):
    """save_best=auto takes the toolbox's first metric; its file may be worse by the main one."""
    hook, checkpoints = MonitoringHook(), CheckpointHook(by_epoch=False, save_best="aAcc")
    hook.history = [
        dict(step=200, metrics=dict(aAcc=81.0, mIoU=45.0)),
        dict(step=300, metrics=dict(aAcc=82.0, mIoU=30.0)),
    ]
    checkpoints.out_dir = "run"
    info = dict(best_ckpt=f"run/best_{metric}_iter_{dict(aAcc=300, mIoU=200)[metric]}.pth")
    Path("run").mkdir()
    for name in (info["best_ckpt"], "run/iter_300.pth", "run/seg.py"):
        Path(name).touch()
    runner = Mock(iter=300, work_dir="run", hooks=[checkpoints], train_loop=object())
    runner.cfg.filename, runner.message_hub.runtime_info = "seg.py", info
    with log_lines() as lines:
        hook.after_run(runner)
    printed = "\n".join(lines)
    if metric == "mIoU":
        assert "best mIoU: 45 at iter 200, run/best_mIoU_iter_200.pth" in printed
        assert "run/seg.py run/best_mIoU_iter_200.pth" in printed
    else:
        assert "of which no checkpoint was kept (default_hooks.checkpoint.save_best=mIoU" in printed


def test_not_to_be_watched(project, tool):
    status, printed = tool("train", CLASSIFIER, "--work-dir", "run", "--no-watch")
    assert status == 0 and "Training is done" not in printed
    assert not Path("run/curves.png").exists() and not Path("run/evaluations.json").exists()
    assert not list(Path("run").glob("*/vis_data/events*"))


def test_a_broken_file_of_evaluations_does_not_stop_a_run(trained, tool):
    trained("classification")
    Path("run/evaluations.json").write_text('[{"step": 1, "metr')
    Path("run/curves.png").unlink()
    Path("run/curves.png").mkdir()  # nor does a picture that cannot be written
    options = ["--cfg-options", "train_cfg.max_epochs=3"]
    status, printed = tool("train", CLASSIFIER, "--work-dir", "run", "--resume", *options)
    assert status == 0 and "evaluations.json cannot be read" in printed
    assert "curves.png is not drawn (IsADirectoryError" in printed
    assert [entry["step"] for entry in evaluations()] == [3]


DRAWING = {
    "segmentation": ("mmseg.visualization.SegLocalVisualizer", "add_datasample"),
    "classification": ("mmpretrain.visualization.UniversalVisualizer", "visualize_cls"),
}


@pytest.mark.parametrize("task", DRAWING)
def test_a_picture_that_cannot_be_drawn_does_not_stop_a_run(task, project, tool, monkeypatch):
    """As mmpretrain's where the validation set has fewer classes than the head."""

    def fail(*args, **kwargs):
        raise IndexError("tuple index out of range")

    name, method = DRAWING[task]
    module, _, visualizer = name.rpartition(".")
    monkeypatch.setattr(getattr(importlib.import_module(module), visualizer), method, fail)
    status, printed = tool("train", TASKS[task][0], "--cfg-options", *SHORT[task])
    assert status == 0 and "best" in printed
    text = "A prediction is not drawn (IndexError: tuple index out of range)"
    assert printed.count(text) == 1  # of two evaluations


def test_running_mean():
    values = np.arange(200.0)
    whole = averaged(values)
    assert whole[[0, 3, 199]].tolist() == [0, 1.5, 197.5]
    values[100] = np.nan
    values[150] = np.inf
    assert averaged(values)[99] == whole[99] and np.isfinite(averaged(values)).all()
    assert averaged(values)[101] == pytest.approx((98 + 99 + 101) / 3)
    assert averaged(np.full(3, np.nan)).tolist() == [0, 0, 0]


def test_figure_shows_what_it_is_given():
    history = [
        dict(step=i + 1, metrics=dict(mIoU=value, aAcc=float(i)))
        for i, value in enumerate([10.0, 30.0, 20.0])
    ]
    history.append(dict(step=4, metrics=dict(aAcc=3.0)))  # mIoU was not finite
    scalars = dict(
        loss=np.linspace(2, 1, 5000), loss_cls=np.full(5000, np.inf), lr=np.full(5000, 1e-3)
    )
    loss, metrics, rate = draw_curves(scalars, history, "epoch").axes
    assert loss.get_legend_handles_labels()[1][:2] == ["loss", "loss_cls"]
    thick, noise = loss.lines[:2]
    assert len(noise.get_xdata()) == 2000 and noise.get_xdata()[-1] == 5000
    assert thick.get_ydata()[-1] == pytest.approx(1.0099, abs=1e-3)
    assert metrics.get_xlabel() == "epoch" and metrics.lines[0].get_label() == "mIoU"
    assert list(metrics.lines[0].get_ydata()) == [10, 30, 20]
    assert metrics.get_xlim()[0] == 0 < 3 < metrics.get_xlim()[1]
    assert metrics.get_title() == "best mIoU: 30 at epoch 2"
    assert set(rate.lines[0].get_ydata()) == {1e-3}


@pytest.mark.parametrize("there", [True, False])
def test_tensorboard_is_used_where_it_is_installed(there, tmp_path, monkeypatch):
    """The config, whose copy in the work dir must work without it, does not name it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if there else None)
    visualizer = SimpleNamespace(_vis_backends={})
    add_monitoring(
        SimpleNamespace(register_hook=print, visualizer=visualizer, log_dir=str(tmp_path))
    )
    assert list(visualizer._vis_backends) == ["TensorboardVisBackend"] * there
