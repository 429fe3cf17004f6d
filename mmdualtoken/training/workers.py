"""DataLoader workers that ignore the signals which stop a run, and end with the run."""

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.data import DataLoader

SECONDS = 5.0


def _end_with_the_parent(parent: int) -> None:
    """Wait for SIGTERM from the process that started this one, or for its end, and end.

    torch's own worker notices, too, that its parent was killed, but can then wait for ever until
    the batches that it has loaded are taken.
    """
    while True:
        info = signal.sigtimedwait({signal.SIGTERM}, SECONDS)
        if os.getppid() != parent or (info and info.si_pid == parent):
            os._exit(0)


def _shielded_init(inner: Callable[[int], Any] | None, worker: int) -> None:
    """Keep the signals of a terminal or scheduler from a worker, then call its `worker_init_fn`.

    Ctrl-C reaches every process of the terminal's foreground group, and some schedulers send
    SIGTERM to every process of a job. The training process needs its workers until it has finished
    the iteration; it ends them itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = (os.getppid(),)
        threading.Thread(target=_end_with_the_parent, args=parent, daemon=True).start()
    if inner is not None:
        inner(worker)


def shield_workers(loader: DataLoader) -> None:
    """Shield the workers that `loader` will start; those that run already stay as they are."""
    own = loader.worker_init_fn
    if getattr(own, "func", None) is not _shielded_init:
        loader.worker_init_fn = partial(_shielded_init, own)


def end_workers(loader: DataLoader | None, iterator: Any = None) -> None:
    """End the workers of a DataLoader, if there is one, and those of an iterator of it.

    Left to the garbage collector, each of them can take torch's five seconds of patience.
    """
    for found in (getattr(loader, "_iterator", None), iterator):
        if hasattr(found, "_shutdown_workers"):
            found._shutdown_workers()
    if loader is not None:
        loader._iterator = None
