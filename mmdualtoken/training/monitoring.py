"""The record of a training: evaluations, curves, pictures of predictions and a summary."""

import importlib.util
import json
import math
import os
import re
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.visualization import TensorboardVisBackend

from mmdualtoken.errors import log_warning
from mmdualtoken.files import replace_file
from mmdualtoken.training.atomic_checkpoint import read_last_checkpoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, EVALUATIONS = "curves.png", "evaluations.json"
#: The metric that a run is judged by, the first of these that it has; more is better.
MAIN_METRICS = ("coco/segm_mAP", "coco/bbox_mAP", "mIoU", "accuracy/top1", "single-label/f1-score")
MAX_CURVES = 8  # in a panel, so that the legend can be read

#: Of each evaluation: 'step', the epochs or iterations that were done, and 'metrics', finite ones.
History = list[dict]


def load_history(file: Path, last_step: int) -> History:
    """Read the evaluations of an earlier run up to a step; none, with a warning, if it fails.

    MMEngine writes a checkpoint before the evaluation of the same step: checkpoints lack that one.
    """
    try:
        entries = json.loads(file.read_text()) if file.is_file() else []
        return [entry for entry in entries if entry["step"] <= last_step]
    except (ValueError, KeyError, TypeError) as error:
        log_warning(
            f"{file} cannot be read ({error}): earlier evaluations are missing in the curves"
        )
        return []


def append_evaluation(file: Path, history: History, step: int, metrics: Mapping) -> None:
    """Add the finite numbers among the metrics to the history, and write its file."""
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float, np.number))}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    history.append(dict(step=step, metrics=finite))
    if is_main_process():
        replace_file(file, json.dumps(history, indent=1).encode())


def best_evaluation(history: History) -> tuple[str, int, float] | None:
    """Main metric, step and value of the best evaluation, the first of equals; None without one."""
    for name in MAIN_METRICS:
        found = [(e["step"], e["metrics"][name]) for e in history if name in e["metrics"]]
        if found:
            return name, *max(found, key=lambda pair: pair[1])
    return None


def averaged(values: np.ndarray) -> np.ndarray:
    """Mean of the finite values within 1/50 of the run up to each value: (n,) -> (n,)."""
    width = max(1, len(values) // 50)
    finite = np.isfinite(values)
    sums = np.cumsum(np.pad(np.where(finite, values, 0), (width, 0)))
    counts = np.cumsum(np.pad(finite, (width, 0)))
    return (sums[width:] - sums[:-width]) / np.maximum(counts[width:] - counts[:-width], 1)


def draw_curves(scalars: Mapping[str, np.ndarray], history: History, unit: str) -> "Figure":
    """Draw losses, metrics of the evaluations, if there are any, and the learning rate.

    Args:
        scalars: name -> value in each iteration; losses have 'loss' in their names.
        unit: of the evaluations' steps, 'epoch' or 'iteration'.
    """
    from matplotlib.figure import Figure  # slow to import

    names = list(dict.fromkeys(name for entry in history for name in entry["metrics"]))
    panels = 3 if names else 2
    figure = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels)
    _draw_losses(axes[0], {name: values for name, values in scalars.items() if "loss" in name})
    if names:
        _draw_metrics(axes[1], names, history, unit)
    rate = scalars.get("lr", np.zeros(0))
    axes[-1].plot(np.arange(1, len(rate) + 1), rate, lw=1.5)
    axes[-1].set_title("learning rate", fontsize=9)
    axes[-1].set_ylim(bottom=0)
    for ax in axes:
        ax.set_xlabel(ax.get_xlabel() or "iteration", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7, frameon=False)
    return figure


def _draw_losses(ax: "Axes", losses: Mapping[str, np.ndarray]) -> None:
    """Draw the total loss thick, with its noise behind it, and its parts as thin lines."""
    for name in sorted(losses, key=lambda name: (name != "loss", name))[:MAX_CURVES]:
        values, total = losses[name], name == "loss"
        shown = np.unique(np.linspace(0, len(values) - 1, 2000).astype(int))  # more is not visible
        (line,) = ax.plot(shown + 1, averaged(values)[shown], lw=2 if total else 1, label=name)
        if total:
            ax.plot(shown + 1, values[shown], color=line.get_color(), alpha=0.25, lw=0.7)
    ax.set_title("loss, averaged over 1/50 of the run", fontsize=9)
    if ax.get_ylim()[0] > 0:
        ax.set_ylim(bottom=0)


def _draw_metrics(ax: "Axes", names: Sequence[str], history: History, unit: str) -> None:
    """Draw the metrics, the main one thick and with its best value marked."""
    best = best_evaluation(history)
    main = best[0] if best else None
    names = [name for name in names if not name.endswith(("time", "_75", "_s", "_m", "_l"))]
    for name in sorted(names, key=lambda name: name != main)[:MAX_CURVES]:
        points = [(e["step"], e["metrics"][name]) for e in history if name in e["metrics"]]
        wide = name == main
        ax.plot(*zip(*points, strict=True), "o-", lw=1 + wide, ms=2 + 2 * wide, label=name)
    ax.set_title("evaluations", fontsize=9)
    if best:
        ax.plot(*best[1:], "*", ms=12, mfc="gold", mec="black", mew=0.8, zorder=3)
        ax.set_title(f"best {main}: {best[2]:.4g} at {unit} {best[1]}", fontsize=9)
    ax.set_xlim(left=0)  # the whole run, even with a single evaluation
    ax.set_xlabel(unit)


class MonitoringHook(Hook):
    """Keep the record of a training in the work dir, and print a summary at the end.

    Evaluations go to evaluations.json, and curves to curves.png. The toolbox's visualization hook
    draws predictions on a few images, unless the config turns it on itself. An error in any of
    these is a warning.

    Args:
        test_tool: path of the tool that tests, for the summary.
        num_pictures: about how many images are drawn; some toolboxes draw whole batches.
    """

    priority = "LOW"  # after the hook that stores the metrics

    def __init__(self, test_tool: str | Path = "tools/test.py", num_pictures: int = 4):
        self.test_tool = test_tool
        self.num_pictures = num_pictures
        self.history: History = []
        self.start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock, and load the evaluations of a run that is resumed."""
        self.start = time.monotonic()
        file = Path(runner.work_dir, EVALUATIONS)
        self.history = load_history(file, _step(runner)) if runner._resume else []

    def before_val(self, runner: Runner) -> None:
        """Turn the visualization hook on, at an interval that suits the number of images."""
        switches = dict(
            DetVisualizationHook=("draw", runner.val_dataloader),
            SegVisualizationHook=("draw", runner.val_dataloader),
            VisualizationHook=("enable", runner.val_dataloader.dataset),  # mmpretrain's
        )
        for hook in runner.hooks:
            switch, counted = switches.get(type(hook).__name__, (None, ()))
            if switch and not getattr(hook, switch):
                setattr(hook, switch, True)
                hook.interval = max(1, math.ceil(len(counted) / self.num_pictures))
                hook.after_val_iter = _warn_once(hook.after_val_iter)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Record the evaluation, and draw the curves."""
        file = Path(runner.work_dir, EVALUATIONS)
        try:
            append_evaluation(file, self.history, _step(runner), metrics or {})
        except OSError as error:
            log_warning(f"{EVALUATIONS} cannot be written: {error}")
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the curves a last time."""
        self._draw(runner)

    @master_only
    def _draw(self, runner: Runner) -> None:
        scalars = {
            name.removeprefix("train/"): np.asarray(buffer.data[0], dtype=float)
            for name, buffer in runner.message_hub.log_scalars.items()
            if name.startswith("train/") and len(buffer.data[0])
        }
        try:
            unit = "epoch" if _by_epoch(runner) else "iteration"
            draw_curves(scalars, self.history, unit).savefig(Path(runner.work_dir, CURVES), dpi=120)
        except Exception as error:  # training is worth more than its picture
            log_warning(f"{CURVES} is not drawn ({type(error).__name__}: {error})")

    def after_run(self, runner: Runner) -> None:
        """Print the summary."""
        done = f"{runner.epoch} epochs" if _by_epoch(runner) else f"{runner.iter} iterations"
        seconds = timedelta(seconds=round(time.monotonic() - self.start))
        lines = [f"\nTraining is done: {done} in {seconds}, at most {_peak_memory(runner)}."]
        unit, work_dir = "epoch" if _by_epoch(runner) else "iter", Path(runner.work_dir)
        file = Path(read_last_checkpoint(work_dir) or "none")
        if self.history and (metrics := self.history[-1]["metrics"]):
            # Without those that split others by class or size.
            names = [n for n in metrics if not re.search(r"_(\d+|s|m|l)$|time$|@", n)] or metrics
            values = ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
            lines.append(f"last evaluation ({unit} {self.history[-1]['step']}): {values}")
        if best := best_evaluation(self.history):
            name, step, value = best
            # What CheckpointHook's save_best kept for this metric, or the checkpoint of that step.
            hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
            info = runner.message_hub.runtime_info
            bests = [Path(str(info.get(key))) for key in ("best_ckpt", f"best_ckpt_{name}")]
            files = [b for b in bests if b.name.startswith(f"best_{name}_".replace("/", "_"))]
            template = getattr(hook, "filename_tmpl", None) or f"{unit}_{{}}.pth"
            files.append(Path(getattr(hook, "out_dir", None) or work_dir, template.format(step)))
            kept = next((f for f in files if f.is_file()), None)
            text = f"of which no checkpoint was kept (default_hooks.checkpoint.save_best={name} "
            text = os.path.relpath(kept) if kept else text + "keeps the best one)"
            lines.append(f"best {name}: {value:.4g} at {unit} {step}, {text}")
            file = kept or file
        folder = os.path.relpath(work_dir)
        lines.append(f"curves: {folder}/{CURVES}, or: tensorboard --logdir {shlex.quote(folder)}")
        config = work_dir / Path(runner.cfg.filename or "").name
        if file.is_file() and config.is_file():
            paths = [os.path.relpath(path) for path in (self.test_tool, config, file)]
            lines.append(f"test it: {shlex.join(['python', *paths])}")
        print_log("\n".join(lines), "current")


def _by_epoch(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _step(runner: Runner) -> int:
    return runner.epoch if _by_epoch(runner) else runner.iter


def _warn_once(draw: Callable) -> Callable:
    """Wrap a hook's method so that its first error is a warning, and later ones are silent."""
    warned = False

    def draw_if_possible(*args: Any, **kwargs: Any) -> None:
        nonlocal warned
        try:
            draw(*args, **kwargs)
        except Exception as error:  # such as a predicted class without a name
            if not warned:
                log_warning(f"A prediction is not drawn ({type(error).__name__}: {error})")
            warned = True

    return draw_if_possible


class PeakMemoryHook(Hook):
    """Keep the largest GPU memory of the run; each line of the log starts MMEngine's count again.

    Attributes:
        peak: bytes; 0 without a GPU.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self) -> None:
        self.peak = 0

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Look at the memory of the iteration."""
        if torch.cuda.is_available():
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())

    after_val_iter = after_train_iter


def _peak_memory(runner: Runner) -> str:
    hook = next((h for h in runner.hooks if isinstance(h, PeakMemoryHook)), None)
    if hook and hook.peak:
        return f"{hook.peak / 2**30:.2f} GiB of a GPU"
    factor = 1 if sys.platform == "darwin" else 2**10
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor / 2**30:.2f} GiB of RAM"


def add_monitoring(
    runner: Runner, test_tool: str | Path = "tools/test.py", num_pictures: int = 4
) -> None:
    """Register `MonitoringHook` and `PeakMemoryHook`, and log to TensorBoard if it is installed.

    TensorBoard is added to the runner, not to the config: its copy in the work dir then works
    without TensorBoard.

    Args:
        runner: before its `train`.
        test_tool, num_pictures: as in `MonitoringHook`.
    """
    runner.register_hook(MonitoringHook(test_tool, num_pictures))
    runner.register_hook(PeakMemoryHook())
    backends = runner.visualizer._vis_backends
    wanted = importlib.util.find_spec("tensorboard") is not None
    if wanted and not any(isinstance(b, TensorboardVisBackend) for b in backends.values()):
        folder = Path(runner.log_dir) / "vis_data"
        backends["TensorboardVisBackend"] = TensorboardVisBackend(save_dir=str(folder))
