"""Reading what a training left in its work dir: how far it came, its accuracy, its curves."""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmengine.config import Config

from lab.report.dumped import differences, read_dumped

TIMESTAMP = re.compile(r"\d{8}_\d{6}")
TRAINED_BY = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
VALIDATED_BY = ("val_dataloader", "val_evaluator")
TESTED_BY = ("model", "test_dataloader", "test_evaluator")


@dataclass(frozen=True)
class Schedule:
    """How long a config trains: `total` epochs (unit 'epoch') or iterations (unit 'iter')."""

    unit: str
    total: int

    @classmethod
    def of(cls, cfg: Config) -> "Schedule":
        epochs = cfg.train_cfg.get("max_epochs")
        return cls("epoch", epochs) if epochs else cls("iter", cfg.train_cfg.max_iters)

    @property
    def last_checkpoint(self) -> str:
        """The name that MMEngine gives the last checkpoint."""
        return f"{self.unit}_{self.total}.pth"


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        folder: its folder of logs, named by the time of its start.
        schedule: of the config that it should have followed.
        step: epochs or iterations done.
        metrics: accuracies by the names of MMEngine's logs, of the last step; empty if nobody
            evaluated it.
        measured_by: where `metrics` come from.
        start: what the backbone started from.
        differs: settings in which the run was not the config's.
        losses: (iteration, loss), those of the runs that it resumed included.
        accuracies: (epoch or iteration, metrics), likewise.
    """

    folder: Path
    schedule: Schedule
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    measured_by: str = ""
    start: str = ""
    differs: tuple[str, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    accuracies: tuple[tuple[int, dict[str, float]], ...] = ()

    @property
    def finished(self) -> bool:
        """Whether it reached the config's last epoch or iteration."""
        return self.step >= self.schedule.total

    @property
    def tested(self) -> bool:
        """Whether `metrics` come from testing the last checkpoint."""
        return self.measured_by.startswith("test ")


@dataclass
class _Log:
    """The scalars of one folder of logs."""

    folder: Path
    schedule: Schedule

    @cached_property
    def lines(self) -> list[dict]:
        """The logged scalars; a line that is cut off, as the last of a killed run, is left out."""
        found = []
        for text in (self.folder / "vis_data" / "scalars.json").read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict):
                found.append(line)
        return found

    @cached_property
    def config(self) -> dict | None:
        return read_dumped(self.folder / "vis_data" / "config.py")

    @property
    def losses(self) -> list[tuple[int, float]]:
        return [(x["iter"], x["loss"]) for x in self.lines if "iter" in x and "loss" in x]

    @property
    def accuracies(self) -> list[tuple[int, dict[str, float]]]:
        """Validations and the epoch or iteration of each.

        Where a loop counts iterations but metrics are logged by epoch, MMEngine writes 0 for the
        epoch; the iteration is that of the last training line before.
        """
        found, iteration = [], 0
        for line in self.lines:
            if "iter" in line:
                iteration = line["iter"]
                continue
            step = line.get("step", 0)
            if self.schedule.unit == "iter":
                step = max(step, iteration)
            metrics = {k: v for k, v in line.items() if k not in ("step", "time", "data_time")}
            found.append((step, metrics))
        return found

    def step(self) -> int:
        """Epochs or iterations that the lines prove to be complete."""
        done = [step for step, _ in self.accuracies]
        if self.schedule.unit == "iter":
            done += [line["iter"] for line in self.lines if "iter" in line]
        else:  # lines of an epoch prove that the one before is complete
            done += [line["epoch"] - 1 for line in self.lines if "epoch" in line]
        return max(done, default=0)


def _folders(parent: Path, file: str) -> list[Path]:
    """Folders named by a time that hold `file`, oldest first."""
    if not parent.is_dir():
        return []
    return sorted(
        p
        for p in parent.iterdir()
        if TIMESTAMP.fullmatch(p.name) and (p / file.format(p.name)).is_file()
    )


def _last_saved(work_dir: Path, unit: str, since: str) -> int:
    """The number in the name of the last checkpoint, 0 if none was saved since a run's start."""
    record = work_dir / "last_checkpoint"
    start = time.mktime(time.strptime(since, "%Y%m%d_%H%M%S"))
    if not record.is_file() or record.stat().st_mtime < start:
        return 0
    match = re.fullmatch(rf"{unit}_(\d+)\.pth", Path(record.read_text().strip()).name)
    return int(match[1]) if match else 0


def _test(work_dir: Path, schedule: Schedule, since: str) -> tuple[Path, dict, dict] | None:
    """The newest test of the last checkpoint since a time: folder, metrics, its config."""
    for folder in reversed(_folders(work_dir / "test", "{}.json")):
        config = read_dumped(folder / "vis_data" / "config.py") or {}
        tested = Path(config.get("load_from") or "")
        own = tested.parent.name == work_dir.name and tested.name == schedule.last_checkpoint
        if own and folder.name > since:
            try:
                return folder, json.loads((folder / f"{folder.name}.json").read_text()), config
            except json.JSONDecodeError:
                continue
    return None


def _start(config: dict | None) -> str:
    """What the weights started from, by the config that the run wrote down."""
    if config is None:
        return "start unknown"
    init = config.get("model", {}).get("backbone", {}).get("init_cfg")
    inits = init if isinstance(init, list) else [init]
    files = [i["checkpoint"] for i in inits if isinstance(i, dict) and i.get("checkpoint")]
    if config.get("load_from") and not config.get("resume"):
        files = [config["load_from"]]  # all weights, after the backbone's
    return f"from {files[0]}" if files else "from scratch"


def _accuracy(
    log: _Log, work_dir: Path, step: int, cfg: Config
) -> tuple[dict[str, float], str, list[str]]:
    """Metrics of a run, where they come from, and what was set otherwise than in the config."""
    schedule = log.schedule
    finished = step >= schedule.total
    if finished and (test := _test(work_dir, schedule, log.folder.name)):
        folder, metrics, config = test
        return metrics, f"test of {schedule.last_checkpoint}", differences(config, cfg, TESTED_BY)
    validations = [(s, m) for s, m in log.accuracies if not finished or s >= schedule.total]
    if not validations:
        return {}, "", []
    last, metrics = validations[-1]
    other = differences(log.config, cfg, VALIDATED_BY)
    return metrics, f"validation at {schedule.unit} {last}", other


def _read(log: _Log, work_dir: Path, newest: bool, earlier: Run | None, cfg: Config) -> Run:
    step = log.step()
    if newest:  # the logs of the last iterations may be missing
        step = max(step, _last_saved(work_dir, log.schedule.unit, log.folder.name))
    metrics, measured_by, other = _accuracy(log, work_dir, step, cfg)
    losses, accuracies = log.losses, log.accuracies
    if earlier and (log.config or {}).get("resume"):
        first = losses[0][0] if losses else 0
        losses = [p for p in earlier.losses if p[0] < first] + losses
        first = accuracies[0][0] if accuracies else 0
        accuracies = [p for p in earlier.accuracies if p[0] < first] + accuracies
    return Run(
        log.folder,
        log.schedule,
        step,
        metrics,
        measured_by,
        _start(log.config),
        tuple(dict.fromkeys([*differences(log.config, cfg, TRAINED_BY), *other])),
        tuple(losses),
        tuple(accuracies),
    )


def read_runs(work_dir: Path, cfg: Config) -> list[Run]:
    """The trainings in a work dir, oldest first.

    Args:
        work_dir: where tools/train.py wrote, with tools/test.py's results in its folder test/.
        cfg: the config that the runs should have followed.
    """
    schedule = Schedule.of(cfg)
    logs = [_Log(f, schedule) for f in _folders(work_dir, "vis_data/scalars.json")]
    runs: list[Run] = []
    for log in logs:
        earlier = runs[-1] if runs else None
        runs.append(_read(log, work_dir, log is logs[-1], earlier, cfg))
    return runs


def pick_run(runs: Iterable[Run]) -> Run | None:
    """The newest finished run, without one the newest, None without any."""
    runs = list(runs)
    finished = [run for run in runs if run.finished]
    return (finished or runs or [None])[-1]
