"""Reading what a training left in its work dir: how far it came, its accuracy, its curves."""

import ast
import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mmengine.config import Config

from mmdualtoken.config_files import PROJECT_ROOT

TIMESTAMP = re.compile(r"\d{8}_\d{6}")
TRAINED_BY = ("model", "train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg")
VALIDATED_BY = ("val_dataloader", "val_evaluator")
TESTED_BY = ("model", "test_dataloader", "test_evaluator")
# These change neither model, data nor recipe, or are filled in when a run starts.
INCIDENTAL = {"_scope_", "backend_args", "collate_fn"}
INCIDENTAL |= {"num_workers", "persistent_workers", "pin_memory"}
# max_epochs or max_iters says which loop runs; tools/train.py puts in the project's own loops.
LOOP = ("train_cfg.type", "train_cfg.by_epoch")
# `tools/train.py --pretrained` sets these; the report says it in words.
STARTING_POINT = tuple(f"model.backbone.{k}" for k in ("init_cfg", "out_norm_cfg", "norm_eval"))


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
        metrics: accuracies of the last step by the names of MMEngine's logs; empty where nobody
            evaluated it.
        measured_by: where `metrics` come from.
        start: the weights that the backbone started from.
        differs: settings in which the run was not the config's.
        losses: by iteration, those of the runs that it resumed included.
        validations: metrics by epoch or iteration, likewise.
    """

    folder: Path
    schedule: Schedule
    step: int
    metrics: dict[str, float]
    measured_by: str
    start: str
    differs: tuple[str, ...]
    losses: pd.Series
    validations: pd.DataFrame

    @property
    def finished(self) -> bool:
        """Whether it reached the config's last epoch or iteration."""
        return self.step >= self.schedule.total

    @property
    def tested(self) -> bool:
        """Whether `metrics` come from testing the last checkpoint."""
        return self.measured_by.startswith("test ")


class _DictCalls(ast.NodeTransformer):
    """Turns the calls dict(...) that MMEngine writes into literals."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if getattr(node.func, "id", "") != "dict":
            return node  # literal_eval refuses it
        keys = [key for given in node.args for key in given.keys]
        values = [value for given in node.args for value in given.values]
        keys += [ast.Constant(word.arg) for word in node.keywords]
        return ast.Dict(keys, values + [word.value for word in node.keywords])


def read_dumped(path: Path) -> dict[str, Any] | None:
    """Read the assignments of a config that MMEngine wrote next to its logs; None if unreadable.

    Nothing is executed: work dirs may come from other people.
    """
    try:
        lines = _DictCalls().visit(ast.parse(path.read_text())).body
        return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError):
        return None


def _plain(value: Any) -> Any:
    """Turn tuples into lists and take the project's folder off paths: data are found there too."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.removeprefix(f"{PROJECT_ROOT}/").rstrip("/") if isinstance(value, str) else value


def _flatten(value: Any, path: str) -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by their dotted paths."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        children = enumerate(value)
    else:
        return {path: _plain(value)}
    leaves = {}
    for key, child in children:
        if key not in INCIDENTAL:
            leaves |= _flatten(child, f"{path}.{key}")
    return leaves


def _differences(dumped: dict[str, Any] | None, cfg: Config, keys: Iterable[str]) -> list[str]:
    """List the paths below `keys` in which a run's own config is not `cfg`."""
    if dumped is None:
        return ["unknown: the run's own config cannot be read"]
    pretrained = (dumped.get("model") or {}).get("backbone", {}).get("init_cfg")
    ignored = LOOP + STARTING_POINT if pretrained else LOOP
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size")
    share = (dumped.get("train_dataloader") or {}).get("batch_size")
    if base and share and base % share == 0 and Schedule.of(cfg).unit == "iter":
        # The same batch on another number of processes, as `Job.train` divides it.
        ignored += ("train_dataloader.batch_size",)
    found = []
    for key in keys:
        ran, meant = _flatten(dumped.get(key), key), _flatten(cfg.to_dict().get(key), key)
        found += [path for path in {**meant, **ran} if ran.get(path) != meant.get(path)]
    return [path for path in found if not path.startswith(ignored)]


def _folders(parent: Path, file: str) -> list[Path]:
    """List the folders named by a time that hold `file`, oldest first."""
    there = sorted(parent.iterdir()) if parent.is_dir() else []
    return [p for p in there if TIMESTAMP.fullmatch(p.name) and (p / file.format(p.name)).is_file()]


def _read_scalars(folder: Path, schedule: Schedule) -> tuple[pd.Series, pd.DataFrame, int]:
    """Read a run's log; returns its losses, its validations and the last step that it proves."""
    lines = []
    for text in (folder / "vis_data" / "scalars.json").read_text().splitlines():
        with suppress(json.JSONDecodeError):  # a kill cut the last line off
            lines.append(json.loads(text))
    log = pd.DataFrame([line for line in lines if isinstance(line, dict)])
    log = log.reindex(columns=log.columns.union(["iter", "epoch", "step", "loss"]))
    trained = log.iter.notna()
    losses = log[trained].astype({"iter": int}).set_index("iter").loss.dropna()
    steps = log.step.fillna(0)
    if schedule.unit == "iter":
        # Where metrics are logged by epoch, MMEngine writes 0; the line before has the iteration.
        steps = np.maximum(steps, log.iter.ffill().fillna(0))
    validations = log[~trained].set_index(steps[~trained].astype(int))
    validations = validations.drop(columns=["step", "time", "data_time"], errors="ignore")
    # Lines of an epoch prove that the one before is complete.
    done = log.iter if schedule.unit == "iter" else log.epoch - 1
    step = max([0, *done.dropna(), *validations.index])
    return losses, validations.dropna(axis="columns", how="all"), int(step)


def _join(earlier: Any, later: Any) -> Any:
    """Put the curve of a resumed run before its own, up to where that begins."""
    before = earlier[~(earlier.index >= later.index.min())]
    return pd.concat([before, later]) if len(before) and len(later) else max(before, later, key=len)


def _last_saved(work_dir: Path, unit: str, since: str) -> int:
    """Return the number in the last checkpoint's name; 0 if none was saved since a run's start."""
    record = work_dir / "last_checkpoint"
    start = time.mktime(time.strptime(since, "%Y%m%d_%H%M%S"))
    if not record.is_file() or record.stat().st_mtime < start:
        return 0
    match = re.fullmatch(rf"{unit}_(\d+)\.pth", Path(record.read_text().strip()).name)
    return int(match[1]) if match else 0


def _find_test(work_dir: Path, schedule: Schedule, since: str) -> tuple[dict, dict] | None:
    """Find the newest test of the last checkpoint since a time; returns metrics and config."""
    for folder in reversed(_folders(work_dir / "test", "{}.json")):
        config = read_dumped(folder / "vis_data" / "config.py") or {}
        tested = Path(config.get("load_from") or "")
        own = tested.parent.name == work_dir.name and tested.name == schedule.last_checkpoint
        if own and folder.name > since:
            with suppress(json.JSONDecodeError):
                return json.loads((folder / f"{folder.name}.json").read_text()), config
    return None


def _find_start(config: dict | None) -> str:
    """Say which weights a run started from, by the config that it wrote down."""
    if config is None:
        return "start unknown"
    init = config.get("model", {}).get("backbone", {}).get("init_cfg")
    inits = init if isinstance(init, list) else [init]
    files = [i["checkpoint"] for i in inits if isinstance(i, dict) and i.get("checkpoint")]
    if config.get("load_from") and not config.get("resume"):
        files = [config["load_from"]]  # all weights, after the backbone's
    return f"from {files[0]}" if files else "from scratch"


def _read_run(folder: Path, work_dir: Path, cfg: Config, newest: bool, earlier: Run | None) -> Run:
    """Read one training; `earlier` is the one before it in the work dir."""
    schedule, config = Schedule.of(cfg), read_dumped(folder / "vis_data" / "config.py")
    losses, validations, step = _read_scalars(folder, schedule)
    if newest:  # the logs of the last iterations may be missing
        step = max(step, _last_saved(work_dir, schedule.unit, folder.name))
    finished = step >= schedule.total
    metrics, measured_by, differs = {}, "", _differences(config, cfg, TRAINED_BY)
    usable = validations[validations.index >= schedule.total] if finished else validations
    if finished and (test := _find_test(work_dir, schedule, folder.name)):
        metrics, measured_by = test[0], f"test of {schedule.last_checkpoint}"
        differs += _differences(test[1], cfg, TESTED_BY)
    elif len(usable):
        metrics = usable.iloc[-1].dropna().to_dict()
        measured_by = f"validation at {schedule.unit} {usable.index[-1]}"
        differs += _differences(config, cfg, VALIDATED_BY)
    if earlier and (config or {}).get("resume"):
        losses = _join(earlier.losses, losses)
        validations = _join(earlier.validations, validations)
    start, differs = _find_start(config), tuple(dict.fromkeys(differs))
    return Run(folder, schedule, step, metrics, measured_by, start, differs, losses, validations)


def read_runs(work_dir: Path, cfg: Config) -> list[Run]:
    """Read the trainings in a work dir, oldest first.

    Args:
        work_dir: where tools/train.py wrote, with tools/test.py's results in its folder test/.
        cfg: the config that the runs should have followed.
    """
    folders, runs = _folders(work_dir, "vis_data/scalars.json"), []
    for folder in folders:
        earlier = runs[-1] if runs else None
        runs.append(_read_run(folder, work_dir, cfg, folder == folders[-1], earlier))
    return runs


def pick_run(runs: Iterable[Run]) -> Run | None:
    """Return the newest finished run, without one the newest, None without any."""
    runs = list(runs)
    finished = [run for run in runs if run.finished]
    return (finished or runs or [None])[-1]
