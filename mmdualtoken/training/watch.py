"""Training that can be watched: curves, predictions at each evaluation, a summary at the end."""

import importlib.util
import logging
import math
import os
import re
import resource
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.visualization import TensorboardVisBackend

from mmdualtoken.training.history import FILE, Evaluations, evaluations, note, recall, train_scalars

CURVES = "curves.png"


class CurvesHook(Hook):
    """Draw losses, learning rate and metrics into curves.png of the work dir: at each evaluation
    and at the end. The metrics are also in evaluations.json.
    """

    priority = "LOW"  # after the hook that stores the metrics

    def before_train(self, runner: Runner) -> None:
        """Recall the evaluations of a run that goes on."""
        recall(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Take note of the evaluation, and draw."""
        try:
            note(runner, metrics or {})
        except OSError as error:  # a full disk, say, should not end the training here
            print_log(f"{FILE} cannot be written: {error}", "current", logging.WARNING)
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw a last time."""
        self._draw(runner)

    @master_only
    def _draw(self, runner: Runner) -> None:
        from mmdualtoken.training.curves import curves_figure  # matplotlib only where it is used

        try:
            figure = curves_figure(train_scalars(runner), evaluations(runner))
            figure.savefig(Path(runner.work_dir) / CURVES, dpi=120)
        except Exception as error:  # whatever it is, training is worth more than its picture
            text = f"{CURVES} is not drawn ({type(error).__name__}: {error})"
            print_log(text, "current", logging.WARNING)


class ValPicturesHook(Hook):
    """Let the toolbox's visualization hook draw its predictions on a few images at each evaluation.

    Nothing is changed where the config turns it on itself. A picture that cannot be drawn, of a
    predicted class without a name for example, is a warning then, and not the end of the training.

    Args:
        num: how many images, about; a batch with several is drawn whole by some toolboxes.
    """

    def __init__(self, num: int = 4):
        self.num = num

    def before_val(self, runner: Runner) -> None:
        """Turn the hook on, at an interval that suits the number of images."""
        for hook in runner.hooks:
            kind = type(hook).__name__
            if kind in ("DetVisualizationHook", "SegVisualizationHook") and not hook.draw:
                hook.draw = True
                hook.interval = max(1, math.ceil(len(runner.val_dataloader) / self.num))
                _only_warn(hook)
            elif kind == "VisualizationHook" and not hook.enable:  # mmpretrain's
                hook.enable = True
                hook.interval = max(1, math.ceil(len(runner.val_dataloader.dataset) / self.num))
                _only_warn(hook)


def _only_warn(hook: Hook) -> None:
    """Let errors of a hook's drawing be a warning, the first one."""
    draw, warned = hook.after_val_iter, False

    def draw_if_possible(*args: Any, **kwargs: Any) -> None:
        nonlocal warned
        try:
            draw(*args, **kwargs)
        except Exception as error:  # whatever it is, training is worth more than its pictures
            if not warned:
                text = f"A prediction is not drawn ({type(error).__name__}: {error})"
                print_log(text, "current", logging.WARNING)
            warned = True

    hook.after_val_iter = draw_if_possible


class SummaryHook(Hook):
    """Say at the end what came out: time, memory, metrics, best checkpoint, how to test it.

    Args:
        test_tool: path of the tool that tests, for the command.
    """

    priority = "LOWEST"

    def __init__(self, test_tool: str | Path = "tools/test.py"):
        self.test_tool = test_tool
        self.start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    def after_run(self, runner: Runner) -> None:
        """Print the summary."""
        seconds = time.monotonic() - self.start
        print_log("\n" + "\n".join(summary(runner, seconds, self.test_tool)), "current")


def _memory() -> str:
    """The most memory that this process has used."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of a GPU"
    factor = 1 if sys.platform == "darwin" else 2**10
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor / 2**30:.2f} GiB of RAM"


def _checkpoint(runner: Runner, unit: str, step: int) -> Path | None:
    """The checkpoint written at that step, if it is there."""
    file = Path(runner.work_dir) / f"{unit}_{step}.pth"
    return file if file.is_file() else None


def _last_checkpoint(runner: Runner) -> Path | None:
    pointer = Path(runner.work_dir) / "last_checkpoint"
    file = Path(pointer.read_text().strip()) if pointer.is_file() else None
    return file if file and file.is_file() else None


def _shown(names: Sequence[str]) -> list[str]:
    """Metrics without those that split others by class or size."""
    return [n for n in names if not re.search(r"_(\d+|s|m|l)$|time$|@", n)] or list(names)


def _best(runner: Runner, found: Evaluations) -> tuple[str, Path | None]:
    """In words, the best evaluation; and its checkpoint, if it is there."""
    values = found.metrics[found.main]
    index = found.best
    step = int(found.steps[index])
    best = runner.message_hub.runtime_info.get("best_ckpt")  # of CheckpointHook's save_best
    file = Path(best) if best and Path(best).is_file() else _checkpoint(runner, found.unit, step)
    text = f"best {found.main}: {values[index]:.4g} at {found.unit} {step}"
    if file is None:
        kept = "default_hooks.checkpoint.save_best=auto keeps the best one"
        return f"{text}, of which no checkpoint was kept ({kept})", None
    return f"{text}, {os.path.relpath(file)}", file


def summary(runner: Runner, seconds: float, test_tool: str | Path) -> list[str]:
    """The lines that are printed at the end of a training."""
    found = evaluations(runner)
    done = f"{runner.epoch} epochs" if found.unit == "epoch" else f"{runner.iter} iterations"
    lines = [
        f"Training is done: {done} in {timedelta(seconds=round(seconds))}, at most {_memory()}."
    ]
    file = _last_checkpoint(runner)
    if found.metrics:
        names = _shown(list(found.metrics))
        values = ", ".join(f"{name} {found.metrics[name][-1]:.4g}" for name in names)
        lines.append(f"last evaluation ({found.unit} {found.steps[-1]}): {values}")
    if found.main:
        text, best = _best(runner, found)
        lines.append(text)
        file = best or file
    work_dir = os.path.relpath(runner.work_dir)
    lines.append(f"curves: {work_dir}/{CURVES}, or: tensorboard --logdir {work_dir}")
    config = Path(runner.work_dir) / Path(runner.cfg.filename or "").name
    if file and config.is_file():
        tool, *paths = (os.path.relpath(path) for path in (test_tool, config, file))
        lines.append(f"test it: {shlex.join(['python', tool, *paths])}")
    return lines


def _add_tensorboard(runner: Runner) -> None:
    """Log to TensorBoard, too, if it is installed.

    On the runner and not in the config, whose copy in the work dir then works without it.
    """
    backends = runner.visualizer._vis_backends
    wanted = importlib.util.find_spec("tensorboard") is not None
    if wanted and not any(isinstance(b, TensorboardVisBackend) for b in backends.values()):
        save_dir = str(Path(runner.log_dir) / "vis_data")
        backends["TensorboardVisBackend"] = TensorboardVisBackend(save_dir=save_dir)


def watch(runner: Runner, test_tool: str | Path = "tools/test.py", num_pictures: int = 4) -> None:
    """Make the training of a runner one that can be watched.

    In the work dir: curves.png; below its dated folder, in vis_data, predictions on some validation
    images and TensorBoard's file. At the end a summary.

    Args:
        runner: before its `train`.
        test_tool: path of the tool that tests, for the summary.
        num_pictures: about how many images are drawn at each evaluation.
    """
    runner.register_hook(CurvesHook())
    runner.register_hook(ValPicturesHook(num_pictures))
    runner.register_hook(SummaryHook(test_tool))
    _add_tensorboard(runner)
