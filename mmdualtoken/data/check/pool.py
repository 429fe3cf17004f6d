"""Work on many items in several processes; one that hangs or dies costs only its item."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import cv2
import torch

PARENT_CHECK_S = 5


def _work(function: Callable[[int], Any], connection: Connection, parent: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Decoders print about broken files; the findings say it already.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        while not connection.poll(PARENT_CHECK_S):
            if os.getppid() != parent:  # it was killed
                return
        connection.send(function(connection.recv()))


class _Worker:
    """A process, its connection, its item, and the time by which the item must be done."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        # A forked process has the data set without reading or copying it again.
        context = get_context("fork")
        self.connection, theirs = context.Pipe()
        arguments = (function, theirs, os.getpid())
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        # Ctrl-C is for the parent, which stops us. The child inherits and keeps the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()

    def start(self, item: int, timeout: float) -> None:
        self.item, self.deadline = item, time.monotonic() + timeout
        with suppress(OSError):  # it died meanwhile; its silence will show that
            self.connection.send(item)

    def stop(self) -> None:
        self.process.kill()
        self.process.join(1)  # a process stuck in the kernel would not end
        self.connection.close()


def run(
    function: Callable[[int], Any],
    count: int,
    workers: int,
    timeout: float,
    lost: Callable[[int, str], Any],
) -> Iterator[Any]:
    """Yield function(0) ... function(count - 1), in the order in which they are done.

    Args:
        function: called in forked processes; its results are pickled.
        workers: number of processes; 0 calls the function here, without a limit of time.
        timeout: seconds that one item may take.
        lost: lost(item, reason) returns the result of an item that took too long or whose process
            died; a new process takes over.
    """
    if not workers:
        yield from map(function, range(count))
        return
    items, crew = iter(range(count)), []
    try:
        for item in islice(items, workers):
            crew.append(_Worker(function))
            crew[-1].start(item, timeout)
        while crew:
            soonest = min(worker.deadline for worker in crew)
            ready = wait([w.connection for w in crew], max(0, soonest - time.monotonic()))
            for worker in list(crew):
                reason, item = "", worker.item
                if worker.connection in ready:
                    try:
                        result = worker.connection.recv()
                    except (EOFError, OSError):
                        worker.process.join(1)
                        code = worker.process.exitcode
                        reason = f"the process that read it died (exit code {code})"
                elif time.monotonic() < worker.deadline:
                    continue
                else:
                    reason = f"reading it took more than {timeout:g} s"
                upcoming = next(items, None)
                if reason or upcoming is None:
                    crew.remove(worker)
                    worker.stop()
                if upcoming is not None:
                    if reason:
                        worker = _Worker(function)
                        crew.append(worker)
                    worker.start(upcoming, timeout)
                yield lost(item, reason) if reason else result
    finally:
        for worker in crew:
            worker.stop()
