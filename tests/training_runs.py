"""Training in processes of its own, which tests may kill, interrupt and resume.

A server process imports the stack once and forks each run from itself: a start costs a fraction of
a second instead of the seconds of a new interpreter.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from lab import scene_writers
from mmdualtoken.weights.checkpoints import load_file

torch.set_num_threads(1)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NARROW = {
    "detection": "maskrcnn_narrow",
    "segmentation": "fcn_narrow",
    "classification": "classifier_narrow",
}
_CONTEXT = multiprocessing.get_context("forkserver")


def _augmentation(task: str) -> list[dict]:
    flip = dict(type="RandomFlip", prob=0.5)
    if task == "classification":
        crop = dict(type="RandomResizedCrop", scale=64)
        return [crop, flip, dict(type="RandomErasing", erase_prob=0.5, mode="rand")]
    photo = dict(type="PhotoMetricDistortion")
    if task == "segmentation":
        resize = dict(type="RandomResize", scale=(96, 96), ratio_range=(0.7, 1.5), keep_ratio=True)
        return [resize, dict(type="RandomCrop", crop_size=(64, 64)), flip, photo]
    resize = dict(type="RandomChoiceResize", scales=[(64, 64), (96, 64)], keep_ratio=True)
    return [resize, flip, photo]


def random_config(task: str, workers: int = 0) -> Config:
    """The narrow config of a task with everything random that a real one has, and EMA."""
    cfg = Config.fromfile(HERE / "configs" / f"{NARROW[task]}.py")
    cfg.custom_imports = dict(imports=["mmdualtoken", "toy_training"], allow_failed_imports=False)
    cfg.model.backbone.drop_path_rate = 0.3
    pipeline = cfg.train_dataloader.dataset.pipeline
    load = [step for step in pipeline if step["type"].startswith("Load")]
    cfg.train_dataloader.dataset.pipeline = [*load, *_augmentation(task), pipeline[-1]]
    cfg.train_dataloader.num_workers = workers
    cfg.train_dataloader.persistent_workers = workers > 0
    cfg.custom_hooks = [dict(type="EMAHook", momentum=0.1)]
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5),
        dict(type="PolyLR", power=1.0, by_epoch=False, begin=0, end=20),
    ]
    if task == "classification":
        augments = [dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
        cfg.model.train_cfg = dict(augments=augments)
        cfg.param_scheduler.append(dict(type="StepLR", step_size=1, gamma=0.9, by_epoch=True))
    return cfg


def _train_with_stock_hooks(config: str, work_dir: str, resume: str = "") -> None:
    """What the toolboxes' own train.py does."""
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.resume = work_dir, bool(resume)
    Runner.from_cfg(cfg).train()


def _child(argv: list[str], folder: str, log: str, file_limit: int | None) -> None:
    """Run a tool of the project, or 'stock', in this process."""
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    os.chdir(folder)
    os.setsid()  # a process group of its own
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have turned off
    # What the server printed when it imported the toolboxes, and still holds, belongs to no run.
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if argv[0] == "stock":
        _train_with_stock_hooks(*argv[1:])
        return
    sys.argv = [f"tools/{argv[0]}.py", *argv[1:]]
    runpy.run_path(str(ROOT / "tools" / f"{argv[0]}.py"), run_name="__main__")


class Run:
    """A tool of the project, running in a process of its own.

    Args:
        folder: working directory; the output goes to `log.txt` there.
        argv: name of the tool, e.g. 'train', and its arguments; or 'stock', a config, a work dir
            and perhaps 'resume', to train as the toolboxes' own train.py does.
        file_limit: bytes that a file may have, at most.
    """

    def __init__(self, folder: Path, *argv: object, file_limit: int | None = None):
        self.log = Path(folder) / "log.txt"
        self._skip = self.log.stat().st_size if self.log.exists() else 0
        args = ([str(a) for a in argv], str(folder), str(self.log), file_limit)
        self.process = _CONTEXT.Process(target=_child, args=args)
        self.process.start()

    @property
    def output(self) -> str:
        """What this run has printed so far."""
        with open(self.log, "rb") as file:
            file.seek(self._skip)
            return file.read().decode(errors="replace")

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.join()

    def wait(self, seconds: float = 300) -> int:
        """Exit status, negative if a signal ended the process."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running:\n{self.output}"
        return self.process.exitcode


def start_server() -> None:
    """Let the server import the stack; needed once, before the first `Run`."""
    paths = [str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    modules = ["toy_training", "training_runs", "mmdet.apis", "mmseg.apis", "mmpretrain.apis"]
    _CONTEXT.set_forkserver_preload(modules)


def train(folder: Path, cfg: Config, name: str | Path, *args, tool: str = "train", **limits):
    """Train in a process of its own, into the work dir `name`; its exit status and output."""
    config = write_config(cfg, folder / f"{Path(name).name}.py")
    work_dir = [name] if tool == "stock" else ["--work-dir", name]
    run = Run(folder, tool, config, *work_dir, *args, **limits)
    return run.wait(), run.output


def write_scenes(folder: Path, count: int) -> None:
    """Write `count` images of each task below `folder`/data."""
    size = dict(num_train=count, num_val=2, size_range=(96, 128))
    scene_writers.write_scenes("coco", folder / "data/scenes", **size)
    scene_writers.write_scenes("ade20k", folder / "data/ade", **size)
    # One of each class: mmpretrain cannot draw a prediction whose class has no folder.
    size["num_val"] = 4
    scene_writers.write_scenes("imagenet", folder / "data/imagenet", **size)


def write_config(cfg: Config, path: Path) -> Path:
    """Write a config for a `Run`."""
    cfg.dump(path)
    return path


def assert_same(a: object, b: object, path: str = "") -> None:
    """Equal in every bit, or name the first place that differs."""
    assert type(a) is type(b), path
    if isinstance(a, (torch.Tensor, np.ndarray)):
        assert a.shape == b.shape, path
        assert (a == b).all(), f"{path}: differs by up to {abs(a - b).max()}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def state_of(file: Path) -> dict:
    """All that decides how training goes on, and the losses that were met."""
    content = load_file(file)
    losses = content["message_hub"]["log_scalars"]["train/loss"].data[0]
    keys = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers", "exact_resume")
    return {key: content[key] for key in keys} | {"losses": list(losses)}


def last(folder: str | Path) -> str:
    """What `--resume` goes on from, relative to the folder's parent."""
    folder = Path(folder).resolve()
    return str(Path((folder / "last_checkpoint").read_text()).relative_to(folder.parent))
