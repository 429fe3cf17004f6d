"""A model that trains in milliseconds, and a hook that sends signals to the training process."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmdualtoken.training.interrupt import exit_cleanly
from mmdualtoken.training.reliability import add_reliability


@HOOKS.register_module()
class SignalAt(Hook):
    """Send signals to the training process, when that many iterations are done.

    Args:
        done: iterations of training, all runs together; for a group, the last of them is running.
        numbers: signals, one after the other; SIGKILL by default.
        to: the 'process' itself; all of its 'group', as a terminal does it; its 'launcher'.
        rank: only there.
        validating: wait for the first batch of the validation after that iteration.
    """

    priority = "LOW"  # before InterruptHook

    def __init__(self, done, numbers=(signal.SIGKILL,), to="process", rank=0, validating=False):
        self.done = done
        self.numbers = numbers
        self.to = to
        self.rank = rank
        self.validating = validating

    def _send(self):
        if get_rank() != self.rank:
            return
        for number in self.numbers:
            if self.to == "group":  # not by this process, whose SIGTERM the workers obey
                command = ["kill", f"-{number}", "--", f"-{os.getpid()}"]
                subprocess.run(command, check=True, start_new_session=True)
            else:
                os.kill(os.getppid() if self.to == "launcher" else os.getpid(), number)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Send them to a group here, and give its processes the time to die of it."""
        if runner.iter + 1 == self.done and self.to == "group":
            self._send()
            time.sleep(1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Or here."""
        if runner.iter + 1 == self.done and self.to != "group" and not self.validating:
            self._send()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Or here."""
        if runner.iter == self.done and self.validating and batch_idx == 0:
            self._send()


@HOOKS.register_module()
class NobodyReads(Hook):
    """What the process prints from now on meets a broken pipe."""

    def before_train(self, runner):
        reader, writer = os.pipe()
        os.close(reader)
        for stream in (1, 2):
            os.dup2(writer, stream)


@MODELS.register_module()
class ToyModel(BaseModel):
    """A layer of width² weights and dropout, which learns to give back its input."""

    def __init__(self, width: int = 8, dropout: float = 0.3):
        super().__init__()
        self.layer = torch.nn.Linear(width, width)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, inputs, mode="tensor", ballast=None):
        """Loss in training; else the difference to the input."""
        inputs = torch.stack(inputs)
        error = self.layer(self.dropout(inputs)) - inputs
        return dict(loss=error.square().mean()) if mode == "loss" else list(error)


@DATASETS.register_module()
class ToyData(Dataset):
    """Ten random vectors, drawn anew each time.

    Args:
        width: of a vector.
        fixed: they stay the same.
        ballast: bytes that come with each, and pass through a worker's pipe.
    """

    def __init__(self, width: int = 8, fixed: bool = False, ballast: int = 0):
        self.width = width
        self.fixed = fixed
        self.ballast = ballast
        self.metainfo = {}

    def __len__(self):
        return 10

    def __getitem__(self, index):
        part = torch.arange(self.width) / 10 if self.fixed else torch.rand(self.width)
        return dict(inputs=index + part, ballast=bytes(self.ballast))


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """An error that gets smaller with every validation, so that each one finds a new best."""

    def process(self, data_batch, data_samples):
        """Count."""
        self.results += [len(data_samples)]

    def compute_metrics(self, results):
        """1 / iterations."""
        return dict(error=1 / MessageHub.get_current_instance().get_info("iter"))


def toy_config(width: int = 8, workers: int = 0, by_epoch: bool = False, length: int = 6) -> Config:
    """Training that takes milliseconds: `length` iterations, or epochs of 5 iterations."""
    loader = dict(
        batch_size=2,
        num_workers=workers,
        persistent_workers=workers > 0,
        dataset=dict(type="ToyData", width=width),
        sampler=dict(type="DefaultSampler", shuffle=True),
    )
    if by_epoch:
        train_cfg = dict(by_epoch=True, max_epochs=length, val_interval=1)
    else:
        train_cfg = dict(type="IterBasedTrainLoop", max_iters=length, val_interval=2)
    return Config(
        dict(
            custom_imports=dict(imports=["mmdualtoken", "toy_training"]),
            default_scope="mmengine",
            model=dict(type="ToyModel", width=width),
            train_dataloader=loader,
            val_dataloader=dict(loader, sampler=dict(type="DefaultSampler", shuffle=False)),
            val_evaluator=dict(type="ToyMetric"),
            train_cfg=train_cfg,
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-2)),
            default_hooks=dict(
                checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=by_epoch)
            ),
            param_scheduler=[dict(type="LinearLR", start_factor=0.5, by_epoch=False, end=9)],
            custom_hooks=[dict(type="EMAHook", momentum=0.1)],
            randomness=dict(seed=0),
            log_level="WARNING",
        )
    )


def with_hook(cfg, **hook):
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    return cfg


def run(cfg, work_dir, resume=False):
    """Train in this process, as tools/train.py does."""
    cfg.work_dir, cfg.resume = work_dir, resume
    cfg.experiment_name = uuid.uuid4().hex  # MMEngine keeps what it logged by this name
    add_reliability(cfg)
    with exit_cleanly(work_dir):
        Runner.from_cfg(cfg).train()


def names(folder):
    """Files of a work dir, without the config and the logs."""
    return {p.name for p in Path(folder).iterdir() if p.is_file() and p.suffix != ".py"}


def stop(cfg, work_dir, done, numbers=(signal.SIGTERM,), **hook):
    """Train until signals end it after `done` iterations; returns the exit status."""
    try:
        run(with_hook(cfg, type="SignalAt", done=done, numbers=list(numbers), **hook), work_dir)
    except SystemExit as end:
        return end.code
    raise AssertionError("no signal ended the run")
