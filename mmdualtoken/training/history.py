"""What a run has logged so far, also before it was resumed."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmdualtoken.files import replace_file

FILE = "evaluations.json"
KEY = "evaluations"  # in the message hub, but not in checkpoints

#: The metric that a run is judged by, the first of these that it has; more is better.
MAIN_METRICS = ("coco/segm_mAP", "coco/bbox_mAP", "mIoU", "accuracy/top1", "single-label/f1-score")


@dataclass(frozen=True)
class Evaluations:
    """Metrics of all evaluations of a run, in order."""

    #: 'epoch' or 'iter', as in the names of the checkpoints.
    unit: str
    #: Epochs or iterations that were done at each evaluation; (k,).
    steps: np.ndarray
    #: Name of a metric -> its values, NaN where it was not given; (k,).
    metrics: Mapping[str, np.ndarray]

    @property
    def main(self) -> str | None:
        """The metric that the run is judged by; None if it has none that is known."""
        known = (name for name in MAIN_METRICS if name in self.metrics)
        return next((name for name in known if np.isfinite(self.metrics[name]).any()), None)

    @property
    def best(self) -> int:
        """Index of the best evaluation by `main`, which must not be None; the first of equals."""
        return int(np.nanargmax(self.metrics[self.main]))


def unit_of(runner: Runner) -> str:
    """'epoch' or 'iter': what the run counts."""
    return "epoch" if isinstance(runner.train_loop, EpochBasedTrainLoop) else "iter"


def _step(runner: Runner) -> int:
    return runner.epoch if unit_of(runner) == "epoch" else runner.iter


def recall(runner: Runner) -> None:
    """Begin the run's list of evaluations: empty, or up to where it is resumed.

    MMEngine writes a checkpoint before the evaluation of the same step; a resumed run would lack
    that one without the file in the work dir.
    """
    entries = _read(Path(runner.work_dir) / FILE) if runner._resume else []
    entries = [entry for entry in entries if entry["step"] <= _step(runner)]
    runner.message_hub.update_info(KEY, entries, resumed=False)


def _read(file: Path) -> list[dict]:
    """The evaluations in a file; none, and a warning, where it is of another kind."""
    if not file.is_file():
        return []
    try:
        return [
            dict(step=int(entry["step"]), metrics=dict(entry["metrics"]))
            for entry in json.loads(file.read_text())
        ]
    except (ValueError, KeyError, TypeError) as error:
        text = f"{file} cannot be read ({error}): earlier evaluations are missing in the curves"
        print_log(text, "current", logging.WARNING)
        return []


def note(runner: Runner, metrics: Mapping[str, float]) -> None:
    """Add an evaluation to the list, and to evaluations.json of the work dir."""
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float, np.number))}
    finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    entries = runner.message_hub.runtime_info.get(KEY) or []
    entries = [*entries, dict(step=_step(runner), metrics=finite)]
    runner.message_hub.update_info(KEY, entries, resumed=False)
    _write(Path(runner.work_dir) / FILE, entries)


@master_only
def _write(file: Path, entries: list[dict]) -> None:
    replace_file(file, json.dumps(entries, indent=1).encode())


def train_scalars(runner: Runner) -> dict[str, np.ndarray]:
    """Name -> value in each iteration: losses, learning rate and whatever else training logs."""
    scalars = runner.message_hub.log_scalars
    found = {
        name.removeprefix("train/"): np.asarray(buffer.data[0], dtype=float)
        for name, buffer in scalars.items()
        if name.startswith("train/")
    }
    return {name: values for name, values in found.items() if len(values)}


def evaluations(runner: Runner) -> Evaluations:
    """The evaluations of the run, those before it was resumed included."""
    entries = runner.message_hub.runtime_info.get(KEY) or []
    names = dict.fromkeys(name for entry in entries for name in entry["metrics"])
    metrics = {n: np.array([e["metrics"].get(n, math.nan) for e in entries]) for n in names}
    steps = np.array([entry["step"] for entry in entries], dtype=int)
    return Evaluations(unit_of(runner), steps, metrics)
