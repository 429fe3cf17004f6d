"""The commands that train and test a row, and running them."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from lab.report.runs import Run, Schedule, pick_run, read_runs
from mmdualtoken.config_files import FOLDERS, PROJECT_ROOT, RIVALS


def project_file(name: str) -> Path:
    """A file of the clone, or of the installed package, as named from the clone's root."""
    for folder in (PROJECT_ROOT, *(configs.parent for configs in (*FOLDERS, RIVALS))):
        if (folder / name).is_file():
            return folder / name
    return PROJECT_ROOT / name


def shown_path(path: Path) -> str:
    """A path as a user would type it: relative if it is below the working directory."""
    path = path if path.is_absolute() else Path.cwd() / path
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True)
class Job:
    """What is needed to train and test one config.

    Args:
        config: the config file.
        cfg: it, read.
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
    def schedule(self) -> Schedule:
        return Schedule.of(self.cfg)

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint of a finished training."""
        return self.work_dir / self.schedule.last_checkpoint

    def _own_work_dir(self) -> bool:
        """Whether the tools would choose another work dir than this."""
        chosen = self.cfg.get("work_dir") or Path("work_dirs") / self.config.stem
        return Path(chosen).resolve() != self.work_dir.resolve()

    def train(self, resume: bool = False) -> list[str]:
        """Words of the command that trains; the learning rate is scaled to another batch size."""
        config = shown_path(self.config)
        if self.gpus > 1:
            words = [shown_path(project_file("tools/dist_train.sh")), config, str(self.gpus)]
        else:
            words = ["python", shown_path(project_file("tools/train.py")), config]
        if self.gpus != recipe_gpus(self.cfg):
            words.append("--auto-scale-lr")
        if self._own_work_dir():
            words += ["--work-dir", shown_path(self.work_dir)]
        if self.pretrained:
            words += ["--pretrained", shown_path(self.pretrained)]
        return words + ["--resume"] * resume

    def test(self) -> list[str]:
        """Words of the command that tests the last checkpoint."""
        config, checkpoint = shown_path(self.config), shown_path(self.checkpoint)
        if self.gpus > 1:
            script = shown_path(project_file("tools/dist_test.sh"))
            words = [script, config, checkpoint, str(self.gpus)]
        else:
            words = ["python", shown_path(project_file("tools/test.py")), config, checkpoint]
        if self._own_work_dir():
            words += ["--work-dir", shown_path(self.work_dir / "test")]
        return words

    def run(self) -> Run | None:
        """The newest finished run in the work dir, else the newest."""
        return pick_run(read_runs(self.work_dir, self.cfg))


def recipe_gpus(cfg: Config) -> int:
    """GPUs that give the config's recipe its batch size; 1 if the config names none."""
    whole = cfg.get("auto_scale_lr", {}).get("base_batch_size")
    return max(1, whole // cfg.train_dataloader.batch_size) if whole else 1


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


def pending(job: Job, resume: bool) -> tuple[list[list[str]], str]:
    """The commands that a row still needs, and why there are fewer than two.

    A work dir with checkpoints of an unfinished run is only gone on with if `resume`; without it
    there is no command, and the reason says so.
    """
    run = job.run()
    if run and run.finished:
        if run.tested:
            return [], f"{shown_path(job.work_dir)}: trained and tested"
        if job.checkpoint.is_file():
            return [job.test()], f"{shown_path(job.work_dir)}: trained"
        return [], f"{shown_path(job.work_dir)}: trained; its {job.checkpoint.name} is gone"
    begun = any(job.work_dir.glob("*.pth"))
    if begun and not resume:
        return [], f"{shown_path(job.work_dir)} holds an unfinished run: --resume goes on with it"
    return [job.train(resume=begun), job.test()], ""


def run_jobs(jobs: list[Job], resume: bool) -> list[str]:
    """Train and test what is not finished; one row's failure does not keep the others from running.

    Returns:
        what went wrong, a line per row.
    """
    failed = []
    for job in jobs:
        todo, reason = pending(job, resume)
        if reason:
            print(f"\n{reason}.", flush=True)
        if not todo and "unfinished" in reason:
            failed.append(reason)
        for words in todo:
            if status := _call(words):
                failed.append(f"status {status}: {shlex.join(words)}")
                break
    return failed
