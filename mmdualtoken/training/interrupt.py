"""Ctrl-C and SIGTERM end training with a checkpoint from which it goes on exactly."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmdualtoken.training.atomic_checkpoint import write_checkpoint
from mmdualtoken.training.workers import shield_workers

FILENAME = "interrupted.pth"
UNCATCHABLE = {signal.SIGKILL, signal.SIGSTOP}
# torchrun passes on a Ctrl-C that the terminal has sent already.
SAME_SIGNAL_SECONDS = 1.0


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """On SIGINT (Ctrl-C) or SIGTERM (schedulers): finish the iteration, write a checkpoint, end.

    The checkpoint is `interrupted.pth` in the folder of the others, one file for all interruptions
    of a run; `last_checkpoint` names it, so that `--resume` goes on from it, also in the middle of
    an epoch. The process ends with status 128 + the signal's number: 130 and 143. A second Ctrl-C
    ends at once, with what was written last. Several processes agree after each iteration; it is
    enough that one of them was told.

    During validation there is nothing to finish: the checkpoint is written at once, and a resumed
    run goes on with training; it does not repeat that validation. With several processes, the first
    one writes it.

    A test keeps its signals as they are: it has nothing to write. Its workers are shielded, too,
    and end with it.

    With gradient accumulation the run ends after the iteration that updates the weights.

    Args:
        signals: names of the signals; some schedulers can send another one, e.g. "SIGUSR1", long
            before they kill.

    Raises:
        ValueError: a signal does not exist or cannot be taken.
    """

    priority = "LOWEST"

    def __init__(self, signals: tuple[str, ...] = ("SIGINT", "SIGTERM")):
        allowed = sorted(s.name for s in signal.Signals if s not in UNCATCHABLE)
        for name in signals:
            if name not in allowed:
                raise ValueError(f"signals: received {name!r}; allowed: {', '.join(allowed)}")
        self.signals = [signal.Signals[name] for name in signals]
        self.received = 0
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}
        self._process = 0

    def before_run(self, runner: Runner) -> None:
        """Keep the signals from the workers that will be started."""
        for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
            if hasattr(loop, "dataloader"):
                shield_workers(loop.dataloader)

    def before_train(self, runner: Runner) -> None:
        """Take the signals over, in the main thread, where alone it is possible.

        One that is ignored stays so: a shell starts a script's background jobs without Ctrl-C.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._process = os.getpid()
        for number in self.signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:
            # A process that others have forked: an evaluation ends its pool by SIGTERM.
            self._restore()
            os.kill(os.getpid(), number)
            return
        first = not self.received
        again = time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS
        if first:
            self.received, self._received_at = number, time.monotonic()
            name = signal.Signals(number).name
            # Not the logger: the signal may have come while it holds its lock.
            text = f"\n{name}: finishing the iteration, then writing a checkpoint."
            text += " Ctrl-C again ends at once.\n" if number == signal.SIGINT else "\n"
            with suppress(OSError, AttributeError):  # nobody reads it: `| tee` may have ended
                os.write(sys.__stderr__.fileno(), text.encode())
        elif number == signal.SIGINT and (again or not is_distributed()):
            self._restore()
            raise KeyboardInterrupt

    def _agreed(self) -> int:
        """The signal that any process has received."""
        if not is_distributed():
            return self.received
        number = torch.tensor([int(self.received)])
        all_reduce(number, op="max")
        return int(number)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End here if a signal has come."""
        number = self._agreed()
        if not number or not self._weights_updated(runner):
            return
        self._end(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

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
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # validation runs on the averaged weights
                hook._swap_ema_parameters()
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        self._end(runner, self.received, meta, together=False)

    def _end(self, runner: Runner, number: int, meta: dict, together: bool = True) -> None:
        hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        if hook is None:
            kept = "The config has no CheckpointHook: nothing was written."
        else:
            write_checkpoint(hook, runner, FILENAME, meta, by_epoch=False)
            kept = f"{hook.last_ckpt} holds its state; --resume goes on from there."
        name = signal.Signals(number).name
        runner.logger.warning(f"Stopped by {name} after iteration {meta['iter']}. {kept}")
        if together:
            barrier()  # a launcher kills all once the first has ended
        self._restore()
        sys.exit(128 + number)
