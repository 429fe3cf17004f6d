"""Measuring what a process holds, and whether it grows: for the tests of long runs.

Not the resident memory, which depends on how the allocator's free pieces lie, and on what else the
machine does: a detector's grows by 2 MB or not at all, without a leak. The allocators know what is
in use to the byte.
"""

import ctypes
import gc
import os
import sys
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, TRANSFORMS

NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def allocated() -> int:
    """Bytes in use in the C allocator: tensors, arrays, large objects (glibc >= 2.33)."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd


def histories() -> int:
    """Bytes of MMEngine's histories of losses, which grow with each iteration by design."""
    buffers = MessageHub.get_current_instance().log_scalars.values()
    return sum(array.nbytes for buffer in buffers for array in buffer.data)


class Footprints:
    """Writes lines to a file: a count, and what this process holds.

    Args:
        name: of the file.
    """

    COLUMNS = ("count", "allocated", "blocks", "files")

    def __init__(self, name: str):
        gc.freeze()  # what is there already is not looked at each time
        self.file = Path(name).absolute()

    def add(self, count: int, by_design: int = 0) -> None:
        """Measure, without what waits for the garbage collector and what grows by design."""
        gc.collect()
        # Small objects of Python have an allocator of their own.
        numbers = (allocated() - by_design, sys.getallocatedblocks())
        files = len(os.listdir("/proc/self/fd"))
        with open(self.file, "a") as file:
            print(count, *numbers, files, file=file)


def read(file: Path) -> dict[str, np.ndarray]:
    """What `Footprints` has written: column -> its values."""
    return dict(zip(Footprints.COLUMNS, np.loadtxt(file).T, strict=True))


def slope(found: dict[str, np.ndarray], column: str, first: int) -> float:
    """Growth of a column for each count, from `first` on, by Theil and Sen: the median over all
    pairs, which single high values do not move.
    """
    keep = found["count"] >= first
    x, y = found["count"][keep], found[column][keep]
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


@HOOKS.register_module()
class FootprintHook(Hook):
    """Measures the training process every `interval` iterations, into process.txt."""

    priority = "LOWEST"

    def __init__(self, interval: int = 50):
        self.interval = interval

    def before_train(self, runner):
        self.footprints = Footprints("process.txt")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.every_n_train_iters(runner, self.interval):
            self.footprints.add(runner.iter + 1, histories())


@TRANSFORMS.register_module()
class FootprintTransform(BaseTransform):
    """Measures a worker every `interval` images that it loads, into worker-PID.txt.

    Args:
        interval: images.
        leak: bytes that are kept of each.
    """

    def __init__(self, interval: int = 50, leak: int = 0):
        self.interval = interval
        self.leak = leak
        self.count = 0
        self.kept = []
        self.footprints = None

    def transform(self, results):
        if self.footprints is None:
            self.footprints = Footprints(f"worker-{os.getpid()}.txt")
        self.count += 1
        if self.leak:
            self.kept.append(np.ones(self.leak, np.uint8))
        if self.count % self.interval == 0:
            self.footprints.add(self.count)
        return results


@HOOKS.register_module()
class LeakHook(Hook):
    """Keeps something of each iteration: a deliberate leak.

    Args:
        kind: 'tensor', of a single number; 'tuple', of Python; 'file', left open.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.kept = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.kind == "tensor":
            self.kept.append(torch.zeros(1))
        elif self.kind == "tuple":
            self.kept.append((runner.iter,))
        else:
            self.kept.append(os.open(os.devnull, os.O_RDONLY))
