"""One training: its config, its process, and what is kept of it."""

import datetime
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmengine.config import Config

from mmdualtoken.errors import InputError
from mmdualtoken.training.nan_loss import STOPPED

from . import data
from .records import DIVERGED
from .rows import Row, swap_backbone
from .tasks import Task

ROOT = Path(__file__).resolve().parents[2]
#: Trainings that choose a learning rate see other images and another seed than reported ones.
LR_SEED = 1000


class TrainingFailed(InputError):
    """A training ended with an error; the message has the end of its output."""


@dataclass(frozen=True)
class Training:
    """What one process trains.

    Attributes:
        task, row: what is trained on what.
        budget: a key of the task's budgets.
        lr: learning rate.
        seed: of everything random.
        choosing: it is to choose the learning rate: it sees parts of the training data alone.
        start: checkpoint of a classifier that the backbone starts from.
        pretraining: a classifier that other rows start from: it trains four times as long.
    """

    task: Task
    row: Row
    budget: str
    lr: float
    seed: int
    choosing: bool = False
    start: str | None = None
    pretraining: bool = False

    @property
    def name(self) -> str:
        kind = f"lr{self.lr:g}" if self.choosing else f"seed{self.seed}"
        kind = "pretraining" if self.pretraining else kind
        return f"{self.task.name}/{self.budget}/{self.row.name}/{kind}"

    @property
    def parts(self) -> tuple[str, str]:
        """Parts of the data to train and to evaluate on."""
        return ("fit", "select") if self.choosing else ("train", "val")

    @property
    def iters(self) -> int:
        budget = self.task.budgets[self.budget]
        return budget.lr_iters if self.choosing else budget.iters * (4 if self.pretraining else 1)

    @property
    def batch(self) -> int:
        return self.task.budgets[self.budget].batch


def schedule(iters: int) -> list[dict]:
    """Warm-up over a tenth of the iterations, then a cosine to 0."""
    warmup = max(iters // 10, 1)
    return [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=warmup),
        dict(type="CosineAnnealingLR", by_epoch=False, begin=warmup, end=iters, eta_min=0),
    ]


def config_of(training: Training, prepared: Path) -> Config:
    """The whole config: the task's, with this backbone, budget, learning rate, seed and data."""
    task, budget = training.task, training.task.budgets[training.budget]
    cfg = Config.fromfile(task.file)
    swap_backbone(cfg, task, training.row)
    cfg.merge_from_dict(dict(model=budget.model))
    target = prepared / task.data
    data.use(cfg, task.data, target, *training.parts)
    cfg.train_dataloader.batch_size = training.batch
    cfg.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers = budget.workers, budget.workers > 0
    every = max(training.iters // (1 if training.choosing else 3), 1)
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=training.iters, val_interval=every)
    cfg.param_scheduler = schedule(training.iters)
    if training.row.muon:
        decay = cfg.optim_wrapper.optimizer.weight_decay
        cfg.optim_wrapper.optimizer = dict(type="MuonAdamW", weight_decay=decay)
        # The ten-fold rate of MMSegmentation's heads is made for AdamW.
        cfg.optim_wrapper.paramwise_cfg.get("custom_keys", {}).pop("head", None)
    cfg.optim_wrapper.optimizer.lr = training.lr
    checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=every, max_keep_ckpts=1)
    step = max(1, min(10, training.iters // 8))
    logger = dict(type="LoggerHook", interval=step, log_metric_by_epoch=False)
    cfg.default_hooks.update(checkpoint=checkpoint, logger=logger)
    cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=training.seed)
    cfg.auto_scale_lr = None
    if training.start:
        cfg.model.backbone.init_cfg = dict(
            type="Pretrained", checkpoint=training.start, prefix="backbone."
        )
    return cfg


def curves(work_dir: Path) -> tuple[list, list[dict]]:
    """(iteration, loss, seconds per iteration, GPU memory) and validations, of all its logs.

    A resumed run has several; what was trained again after a checkpoint counts once.
    """
    train: dict[int, tuple] = {}
    validations: dict[int, dict] = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        last = 0
        for text in file.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # the last line of a killed run
            if "loss" in line:
                last = line.get("iter", line.get("step"))
                train[last] = (last, line["loss"], line.get("time"), line.get("memory"))
            elif line.get("step") is not None:
                step = max(line["step"], last)
                validations[step] = {"iter": step, **line}
    return [train[i] for i in sorted(train)], [validations[i] for i in sorted(validations)]


#: What a training's outcome depends on, of the repository.
CODE = ("benchmarks/learn.py", "benchmarks/learning/*.py", "benchmarks/learning/configs")
CODE += ("mmdualtoken", "configs", "tools")


def commit_of(root: Path) -> str:
    """The commit of a checkout, with '+' where the code has changes that are not in it."""
    git = ["git", "-C", str(root)]
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        return "unknown"
    status = subprocess.run(
        [*git, "status", "--porcelain", "--", *CODE], capture_output=True, text=True
    )
    return done.stdout.strip() + "+" * bool(status.stdout.strip())


def command_of(training: Training, work_dir: Path) -> list[str]:
    """The command that trains, or goes on."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(work_dir / "config.py")]
    command += ["--work-dir", str(work_dir), "--no-watch"]
    if training.budget == "gpu":
        command.append("--amp")
    if (work_dir / "last_checkpoint").is_file():
        command.append("--resume")
    elif any(work_dir.glob("*.pth")):
        command.append("--overwrite")  # a checkpoint that was not finished
    return command


def _run(command: list[str], environment: dict, work_dir: Path) -> tuple[int, object]:
    """Exit status and resource usage of a command, whose output goes to output.txt."""
    with (work_dir / "output.txt").open("a") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=work_dir
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C: nothing runs on
            process.kill()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


@contextmanager
def alone(work_dir: Path) -> Iterator[None]:
    """Hold a training's folder while it runs: two runs would overwrite each other's checkpoints.

    Raises:
        InputError: another process holds it.
    """
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with (work_dir.parent / f"{work_dir.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{work_dir} is being trained by another process. Wait for it, or give another "
                "--work-dir and --results."
            ) from None
        yield


def ended_in_nan(output: str) -> bool:
    """Whether the last that a training printed is the end by a NaN loss or weight."""
    last = output.strip().rpartition("\n")[2]
    return last.startswith(f"error: {STOPPED}")


def run(training: Training, prepared: Path, work: Path, threads: int, keep: bool = False) -> dict:
    """Train, or go on where it was interrupted; returns what the record keeps.

    A learning rate that ends in NaN is a bad one, not a failure: such a trial has the value 0.

    Raises:
        TrainingFailed: it ended with an error, or its log lacks the metric.
    """
    work_dir = work / training.name
    data.prepare(training.task.data, prepared)
    text = config_of(training, prepared).pretty_text
    config = work_dir / "config.py"
    if work_dir.is_dir() and not (config.is_file() and config.read_text() == text):
        shutil.rmtree(work_dir)  # of another budget or version: nothing to go on with
    work_dir.mkdir(parents=True, exist_ok=True)
    config.write_text(text)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths.rstrip(":")}
    command, begun, load = command_of(training, work_dir), time.time(), os.getloadavg()[1]
    status, usage = _run(command, environment, work_dir)
    diverged = False
    if status:
        output = (work_dir / "output.txt").read_text(errors="replace")
        diverged = training.choosing and ended_in_nan(output)
        if not diverged:
            tail = output[-2000:]
            raise TrainingFailed(f"{training.name} ended with status {status}:\n{tail}")
    train, validations = curves(work_dir)
    key, _ = training.task.metric
    if diverged:
        validations = [{"iter": train[-1][0] if train else 0, key: 0.0}]
    if training.task.real.startswith("mmdet/"):  # without a single detection it logs no AP
        validations = [{key: 0.0, **v} for v in validations]
    if not validations or key not in validations[-1]:
        raise TrainingFailed(f"{training.name}: its log has no {key}; see {work_dir}.")
    seconds = [t for _, _, t, _ in train[1:] if t is not None]
    gpu = [m for *_, m in train if m]
    workers = training.task.budgets[training.budget].workers
    record = {
        "task": training.task.name,
        "row": training.row.name,
        "budget": training.budget,
        "choosing_lr": training.choosing,
        "lr": training.lr,
        "seed": training.seed,
        "trained_on": training.parts[0],
        "evaluated_on": training.parts[1],
        "iters": training.iters,
        "batch": training.batch,
        "metric": training.task.metric[1],
        "value": validations[-1][key] * training.task.to_points,
        "curve": [[v["iter"], v[key] * training.task.to_points] for v in validations if key in v],
        "losses": [[i, loss] for i, loss, *_ in train],
        "ms_per_image": 1000 * median(seconds) / training.batch if seconds else None,
        "wall_s": time.time() - begun,
        "memory_mb": max(gpu) if gpu else usage.ru_maxrss / 1024,
        "noisy": max(load, os.getloadavg()[1]) > threads + workers + 0.5,
        "start": training.row.weights or (training.start and Path(training.start).name),
        "command": f"python benchmarks/learn.py {training.task.name} --budget {training.budget} "
        f"--rows {training.row.name} --threads {threads}",
        "commit": commit_of(ROOT),
        "threads": threads,
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
    }
    if diverged:
        record[DIVERGED] = True
    if not keep:
        for file in [*work_dir.glob("*.pth"), work_dir / "last_checkpoint"]:
            file.unlink(missing_ok=True)
    return record
