"""Curves, pictures and the summary of a training."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tasks import TASKS

from mmdualtoken.training.monitoring import averaged, draw_curves
from mmdualtoken.weights.checkpoints import load_file

SHORT = {
    "detection": ["train_cfg.max_iters=4", "train_cfg.val_interval=2"],
    "segmentation": ["train_cfg.max_iters=4", "train_cfg.val_interval=2"],
    "classification": ["train_cfg.max_epochs=2", "train_cfg.val_interval=1"],
}
MAIN = dict(detection="coco/segm_mAP", segmentation="mIoU", classification="accuracy/top1")


@pytest.mark.parametrize("task", TASKS)
def test_training_can_be_watched(task, project, tool):
    """curves.png, pictures of each evaluation, TensorBoard's file, and a summary that holds."""
    config = TASKS[task][0]
    status, printed = tool("train", config, "--work-dir", "run", "--cfg-options", *SHORT[task])
    assert status == 0
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
    status, _ = tool("test", *command[2:], "--work-dir", "eval")
    assert status == 0 and Path(command[1]).name == "test.py" and Path(command[1]).is_file()


def test_a_resumed_run_keeps_its_curves(project, tool):
    """The evaluation after the checkpoint is kept; one from after the step resumed at is not."""
    config, options = TASKS["classification"][0], ["--work-dir", "run", "--cfg-options"]
    options += ["train_cfg.val_interval=1"]
    assert tool("train", config, *options, "train_cfg.max_epochs=2")[0] == 0
    first = json.loads(Path("run/evaluations.json").read_text())
    assert [entry["step"] for entry in first] == [1, 2]
    status, printed = tool(
        "train", config, "--resume", "run/epoch_1.pth", *options, "train_cfg.max_epochs=3"
    )
    assert status == 0
    again = json.loads(Path("run/evaluations.json").read_text())
    assert [entry["step"] for entry in again] == [1, 2, 3]
    assert again[0] == first[0] and again[2]["metrics"]["accuracy/top1"] >= 0
    hub = load_file("run/epoch_3.pth")["message_hub"]
    assert len(hub["log_scalars"]["train/loss"].data[0]) == 3 * 2
    assert tool("train", config, "--overwrite", *options, "train_cfg.max_epochs=1")[0] == 0
    anew = json.loads(Path("run/evaluations.json").read_text())
    assert [entry["step"] for entry in anew] == [1]


def test_pictures_that_the_config_asks_for_stay_as_they_are(project, tool):
    options = [*SHORT["segmentation"], "default_hooks.visualization.draw=True"]
    options += ["default_hooks.visualization.interval=100"]
    config = TASKS["segmentation"][0]
    assert tool("train", config, "--work-dir", "run", "--cfg-options", *options)[0] == 0
    assert len(list(Path("run").glob("*/vis_data/vis_image/*.png"))) == 0


def test_without_evaluations_and_checkpoints(project, tool):
    none = [f"val_{name}=None" for name in ("cfg", "dataloader", "evaluator")]
    arguments = [TASKS["classification"][0], "--work-dir", "run", "--cfg-options", *none]
    status, printed = tool("train", *arguments)
    assert status == 0 and "last evaluation" not in printed and "best" not in printed
    assert re.search(r"test it: python .* run/epoch_1\.pth", printed)
    assert cv2.imread("run/curves.png").shape[1] == 2 * 540


def test_not_to_be_watched(project, tool):
    config = TASKS["classification"][0]
    status, printed = tool("train", config, "--work-dir", "run", "--no-watch")
    assert status == 0 and "Training is done" not in printed
    assert not Path("run/curves.png").exists() and not Path("run/evaluations.json").exists()
    assert not list(Path("run").glob("*/vis_data/events*"))


def test_a_broken_file_of_evaluations_does_not_stop_a_run(project, tool):
    config, options = TASKS["classification"][0], ["--cfg-options", "train_cfg.max_epochs="]
    assert tool("train", config, "--work-dir", "run")[0] == 0
    Path("run/evaluations.json").write_text('[{"step": 1, "metr')
    Path("run/curves.png").unlink()
    Path("run/curves.png").mkdir()  # nor does a picture that cannot be written
    options[1] += "2"
    status, printed = tool("train", config, "--work-dir", "run", "--resume", *options)
    assert status == 0 and "evaluations.json cannot be read" in printed
    assert "curves.png is not drawn (IsADirectoryError" in printed
    assert [e["step"] for e in json.loads(Path("run/evaluations.json").read_text())] == [2]


DRAWING = {
    "detection": ("mmdet.visualization.DetLocalVisualizer", "add_datasample"),
    "segmentation": ("mmseg.visualization.SegLocalVisualizer", "add_datasample"),
    "classification": ("mmpretrain.visualization.UniversalVisualizer", "visualize_cls"),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_that_cannot_be_drawn_does_not_stop_a_run(task, project, tool, monkeypatch):
    """As mmpretrain's where the validation set has fewer classes than the head."""

    def fail(*args, **kwargs):
        raise IndexError("tuple index out of range")

    name, method = DRAWING[task]
    module, _, visualizer = name.rpartition(".")
    monkeypatch.setattr(getattr(importlib.import_module(module), visualizer), method, fail)
    arguments = [TASKS[task][0], "--overwrite", "--cfg-options", *SHORT[task]]
    status, printed = tool("train", *arguments)
    assert status == 0 and "best" in printed
    text = "A prediction is not drawn (IndexError: tuple index out of range)"
    assert printed.count(text) == 1  # of two evaluations
    drawing = "enable" if task == "classification" else "draw"
    wanted = [
        f"default_hooks.visualization.{drawing}=True",
        "default_hooks.visualization.interval=1",
    ]
    with pytest.raises(IndexError):  # the config's own wish is the toolbox's business
        tool("train", *arguments, *wanted)


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


WITHOUT_TENSORBOARD = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "tensorboard" else find(name, *a)
sys.modules["torch.utils.tensorboard"] = None
tool = sys.argv[1]
sys.argv = sys.argv[1:]
runpy.run_path(tool, run_name="__main__")
"""


@pytest.mark.slow
def test_without_tensorboard(project):
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", WITHOUT_TENSORBOARD, root / "tools" / "train.py"]
    done = subprocess.run(
        [*command, TASKS["classification"][0], "--work-dir", "run"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list(Path("run").glob("*/vis_data/events*")) and Path("run/curves.png").is_file()
