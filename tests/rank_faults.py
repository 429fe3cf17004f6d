"""A hook for tests: one process of several is killed, or hangs, in the middle of training."""

import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RankFault(Hook):
    """Send this process a signal that it cannot catch.

    Args:
        signal: 'SIGKILL' ends it, 'SIGSTOP' makes it hang.
        iteration: after this one, counted from 1.
        rank: of the process.
    """

    def __init__(self, signal: str, iteration: int, rank: int = 1):
        self.signal, self.iteration, self.rank = signal, iteration, rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank == self.rank and runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), getattr(signal, self.signal))
