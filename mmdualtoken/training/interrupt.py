"""How a training ends early: signals write a checkpoint; disk errors become one paragraph."""

import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os.path import realpath  # unlike Path.resolve, also of a link to itself
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmdualtoken.errors import InputError, print_stderr
from mmdualtoken.training.atomic_checkpoint import read_last_checkpoint, write_checkpoint
from mmdualtoken.training.distributed import max_over_processes
from mmdualtoken.training.workers import shield_workers

FILENAME = "interrupted.pth"
# torchrun passes on a Ctrl-C that the terminal has sent already.
SAME_SIGNAL_SECONDS = 1.0


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """On SIGINT (Ctrl-C) or SIGTERM (schedulers): finish the iteration, write a checkpoint, exit.

    The checkpoint is `interrupted.pth` in the folder of the others, one file for all interruptions
    of a run; `last_checkpoint` names it for `--resume`, also in the middle of an epoch. The process
    exits with status 128 + the signal's number: 130 and 143. A second Ctrl-C ends at once, without
    another checkpoint. Several processes agree after each iteration; a signal to one is enough.

    During validation there is nothing to finish: the checkpoint is written at once, by the first of
    several processes. A resumed run does not repeat that validation.

    A test, which has nothing to write, keeps its signal handlers. Its workers are shielded, too,
    and end with it.

    With gradient accumulation the run ends after the iteration that updates the weights.

    Args:
        signals: names of the signals; some schedulers can send another one, e.g. "SIGUSR1", long
            before they kill.
    """

    priority = "LOWEST"

    def __init__(self, signals: tuple[str, ...] = ("SIGINT", "SIGTERM")):
        self.signals = [signal.Signals[name] for name in signals]
        self.received = 0
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}
        self._followed: set[EMAHook] = set()
        self._averaged: set[EMAHook] = set()  # whose averages the model has now

    def before_run(self, runner: Runner) -> None:
        """Keep the signals from the workers that will be started."""
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, "dataloader"):
                shield_workers(loop.dataloader)

    def before_train(self, runner: Runner) -> None:
        """Handle the signals from now on, if this is the main thread: no other can.

        One that is ignored stays so: a shell starts a script's background jobs without Ctrl-C.
        """
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and hook not in self._followed:
                self._followed.add(hook)
                hook._swap_ema_parameters = self._noted(hook, hook._swap_ema_parameters)
        if threading.current_thread() is not threading.main_thread():
            return
        # An evaluation ends the processes that it has forked by SIGTERM.
        os.register_at_fork(after_in_child=self._restore)
        for number in self.signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers; where training fails, `exit_cleanly` does it."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: Any) -> None:
        again = time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS
        if not self.received:
            self.received, self._received_at = number, time.monotonic()
            text = f"\n{signal.Signals(number).name}: finishing the iteration, then writing a "
            text += f"checkpoint.{' Ctrl-C again ends at once.' * (number == signal.SIGINT)}\n"
            # Not the logger: the signal may have come while it holds its lock.
            with suppress(OSError, AttributeError):  # nobody reads it: `| tee` may have ended
                os.write(sys.__stderr__.fileno(), text.encode())
        elif number == signal.SIGINT and (again or not is_distributed()):
            self._restore()
            raise KeyboardInterrupt

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End here if a signal has come."""
        number = max_over_processes(self.received)
        if number and self._weights_updated(runner):
            self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _noted(self, hook: EMAHook, swap: Callable[[], None]) -> Callable[[], None]:
        """Note when the model has a hook's averaged weights: in validation, or in a part of it."""

        def swap_and_note() -> None:
            swap()
            self._averaged.symmetric_difference_update({hook})

        return swap_and_note

    @staticmethod
    def _weights_updated(runner: Runner) -> bool:
        should_update = getattr(runner.optim_wrapper, "should_update", None)
        return should_update is None or should_update()

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End here if a signal has come, with the weights as training left them."""
        if not self.received or not is_main_process() or not self._weights_updated(runner):
            return
        if not isinstance(runner, Runner):  # FlexibleRunner would note the next iteration as done
            return
        for hook in list(self._averaged):
            hook._swap_ema_parameters()
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        self._end(runner, self.received, meta, together=False)

    def _end(self, runner: Runner, number: int, meta: dict, together: bool = True) -> None:
        hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        if hook is None:
            kept = "The config has no CheckpointHook: nothing was written."
        else:
            write_checkpoint(hook, runner, FILENAME, meta, by_epoch=False)
            kept = f"{hook.last_ckpt} holds its state; --resume continues from it."
        name = signal.Signals(number).name
        runner.logger.warning(f"Stopped by {name} after iteration {meta['iter']}. {kept}")
        if together:
            barrier()  # a launcher kills all once the first has ended
        sys.exit(128 + number)


#: Errors of writing. Only writing raises the first four; reading data can raise the others, too.
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FAILURES = (*WRITING, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EEXIST)
FAILURES += (errno.ENAMETOOLONG, errno.ESTALE)


def _concerns(path: str | None, folder: Path) -> bool:
    """Whether the path lies in the folder, or the folder below it, and could not be made."""
    if path is None:
        return True
    path, folder = Path(realpath(path)), Path(realpath(folder))
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def describe_last_checkpoint(work_dir: str | Path) -> str:
    """Say from which checkpoint of a work dir --resume would continue."""
    last = read_last_checkpoint(work_dir)
    if last is None:
        return "No checkpoint has been written yet"
    return f"The last good checkpoint is {last}; --resume continues from it"


def _print_thread_error(args: Any) -> None:
    """Skip what TensorBoard's thread cannot write: the training thread raises it again."""
    if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in WRITING:
        threading.__excepthook__(args)


@contextmanager
def exit_cleanly(work_dir: str | Path) -> Iterator[None]:
    """Turn a disk that cannot be written, or Ctrl-C, into one paragraph and an exit status.

    Ctrl-C exits with status 130. A log file that cannot be written does not end training, and
    prints no traceback for each line; neither does TensorBoard's thread. Other errors of the
    operating system pass through: reading, or writing outside of `work_dir`. At the end, signal
    handlers are as before.

    Raises:
        InputError: writing failed; the message says why, and which checkpoint is the last.
    """
    folder = Path(work_dir)
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    excepthook, threading.excepthook = threading.excepthook, _print_thread_error
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    except KeyboardInterrupt:
        print_stderr(f"\nStopped by Ctrl-C at once. {describe_last_checkpoint(folder)}.")
        sys.exit(130)
    except OSError as error:
        if error.errno not in FAILURES or not _concerns(error.filename, folder):
            raise
        maybe = "" if error.errno in WRITING else ", or cannot read its data"
        raise InputError(
            f"Training cannot write {error.filename or f'to {folder}{maybe}'}: {error.strerror}. "
            "Make room or give another folder with --work-dir. "
            f"{describe_last_checkpoint(folder)}."
        ) from error
    finally:
        logging.raiseExceptions = raising
        threading.excepthook = excepthook
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
