"""The commands that train and test the rows of the tables, and running them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmengine.config import Config

from lab.report.mini import CLONE, mini_data, mini_settings
from lab.report.paper import Row, Table
from lab.report.runs import Run, Schedule, pick_run, read_runs
from mmdualtoken.errors import InputError
from mmdualtoken.export.measure import quiet


@dataclass(frozen=True)
class Options:
    """The arguments that decide the commands.

    Args:
        work_dirs: folder of the work dirs.
        gpus: GPUs to train with, None for as many as each config's batch size is meant for.
        from_imagenet: whether detectors and segmentors start from Table 2's checkpoints.
        mini: whether to use the small versions of the configs, below `work_dirs`/mini.
    """

    work_dirs: Path = Path("work_dirs")
    gpus: int | None = None
    from_imagenet: bool = False
    mini: bool = False

    @property
    def root(self) -> Path:
        return self.work_dirs / "mini" if self.mini else self.work_dirs


def shown_path(path: Path) -> str:
    """Return a path as a user would type it: relative if it is below the working directory."""
    path = Path.cwd() / path
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@cache
def read_config(name: str) -> tuple[Path, Config]:
    """Read a config by its name from the clone's root, or from lab/, once.

    Raises:
        InputError: it is not there.
    """
    path = next((p for p in (CLONE / name, CLONE / "lab" / name) if p.is_file()), None)
    if path is None:
        raise InputError(f"The config {name} is missing.")
    with quiet():
        return path, Config.fromfile(path)


def recipe_gpus(cfg: Config) -> int:
    """Return the GPUs that give a recipe its batch size; 1 if the config names none."""
    batch_size = cfg.get("auto_scale_lr", {}).get("base_batch_size")
    return max(1, batch_size // cfg.train_dataloader.batch_size) if batch_size else 1


@dataclass(frozen=True)
class Job:
    """Training and testing one config.

    Args:
        config: the config file.
        cfg: its content.
        work_dir: where training writes; tests go to its folder test/.
        gpus: processes, one per GPU; 1 also means a CPU.
        pretrained: the checkpoint that the backbone starts from, None for none.
    """

    config: Path
    cfg: Config
    work_dir: Path
    gpus: int = 1
    pretrained: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint of a finished training."""
        return self.work_dir / Schedule.of(self.cfg).last_checkpoint

    def _command(self, tool: str, *files: Path) -> list[str]:
        script = f"tools/dist_{tool}.sh" if self.gpus > 1 else f"tools/{tool}.py"
        words = [shown_path(path) for path in (CLONE / script, *files)]
        return [*words, str(self.gpus)] if self.gpus > 1 else ["python", *words]

    def _work_dir(self, folder: Path) -> list[str]:
        """Return the argument for a folder, none where the tools choose the work dir themselves."""
        chosen = self.cfg.get("work_dir") or Path("work_dirs") / self.config.stem
        own = Path(chosen).resolve() == self.work_dir.resolve()
        return [] if own else ["--work-dir", shown_path(folder)]

    def train(self, resume: bool = False) -> list[str]:
        """Return the command that trains, on any number of GPUs with the recipe's epochs.

        By epochs, the learning rate is scaled to another batch size. By iterations, each GPU gets
        a larger share of the same batch: with a smaller one the model would see fewer images.
        """
        words = self._command("train", self.config)
        if self.gpus != recipe_gpus(self.cfg):
            base = self.cfg.get("auto_scale_lr", {}).get("base_batch_size")
            if base and base % self.gpus == 0 and Schedule.of(self.cfg).unit == "iter":
                words += ["--cfg-options", f"train_dataloader.batch_size={base // self.gpus}"]
            else:
                words.append("--auto-scale-lr")
        words += self._work_dir(self.work_dir)
        if self.pretrained:
            words += ["--pretrained", shown_path(self.pretrained)]
        return words + ["--resume"] * resume

    def test(self) -> list[str]:
        """Return the command that tests the last checkpoint.

        --pretrained changes the model: the config is then the one that training writes.
        """
        config = self.work_dir / self.config.name if self.pretrained else self.config
        words = self._command("test", config, self.checkpoint)
        return words + self._work_dir(self.work_dir / "test")

    def run(self) -> Run | None:
        """Return the newest finished run in the work dir, else the newest."""
        return pick_run(read_runs(self.work_dir, self.cfg))


def make_job(row: Row, options: Options) -> Job:
    """Return the job of a row.

    Raises:
        InputError: a config is missing.
    """
    path, cfg = read_config(row.config)
    work_dir, gpus = options.root / path.stem, options.gpus or recipe_gpus(cfg)
    if options.mini:
        cfg = deepcopy(cfg)
        data = mini_data(options.root, cfg.default_scope)
        cfg.merge_from_dict(mini_settings(cfg, data, str(work_dir)))
        path, gpus = options.root / path.name, 1
    pretrained = None
    if options.from_imagenet and row.pretrained:
        pretrained = make_job(Row(row.label, row.pretrained), options).checkpoint
    return Job(path, cfg, work_dir, gpus, pretrained)


def make_jobs(tables: Iterable[Table], options: Options) -> list[Job]:
    """Return the jobs of all rows that have a config, each config once.

    Raises:
        InputError: a config is missing.
    """
    rows: dict[str, Row] = {}
    for row in (row for table in tables for row in table.rows if row.config):
        rows.setdefault(row.config, row)
    return [make_job(row, options) for row in rows.values()]


def pending(job: Job, resume: bool) -> tuple[list[list[str]], str]:
    """Return the commands that a row still needs, and why there are fewer than two.

    Without `resume`, a work dir with checkpoints of an unfinished run gets no command.
    """
    run, folder = job.run(), shown_path(job.work_dir)
    if run and run.finished:
        if run.tested:
            return [], f"{folder}: trained and tested"
        if job.checkpoint.is_file():
            return [job.test()], f"{folder}: trained"
        return [], f"{folder}: trained; its {job.checkpoint.name} is gone"
    begun = any(job.work_dir.glob("*.pth"))
    if begun and not resume:
        return [], f"{folder} holds an unfinished run: --resume continues it"
    return [job.train(resume=begun), job.test()], ""


def _call(words: list[str]) -> int:
    """Print a command, run it with this Python, return its exit status."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    process = subprocess.Popen(words, env={**os.environ, "PYTHON": sys.executable})
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()  # it had the signal too, and saves a checkpoint
        raise


def run_jobs(jobs: list[Job], resume: bool) -> list[str]:
    """Train and test unfinished rows; a row that fails does not stop the others.

    Returns:
        what went wrong, a line per row.
    """
    failed = []
    for job in jobs:
        todo, reason = pending(job, resume)
        if reason:
            print(f"\n{reason}.", flush=True)
        if "unfinished" in reason:
            failed.append(reason)
        for words in todo:
            if status := _call(words):
                failed.append(f"status {status}: {shlex.join(words)}")
                break
    return failed
