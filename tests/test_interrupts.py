"""Signals end training with a checkpoint and on from there exactly; nothing is left over."""

import gc
import multiprocessing
import os
import re
import signal
import time
from contextlib import nullcontext, suppress

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy_training import names, run, toy_config, with_hook
from training_runs import assert_same, last, state_of

from mmdualtoken.cli import run_tool
from mmdualtoken.training.interrupt import InterruptHook

INTERRUPTS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def handlers():
    """Signal handlers as in a terminal, and the same when the test ends."""
    usual = [signal.SIG_DFL, signal.default_int_handler]
    before = [signal.signal(n, h) for n, h in zip(INTERRUPTS, usual, strict=True)]
    yield
    after = [signal.signal(n, h) for n, h in zip(INTERRUPTS, before, strict=True)]
    assert after == usual


@pytest.mark.parametrize("validating", [False, True], ids=["training", "validating"])
@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
@pytest.mark.parametrize("number", INTERRUPTS)
@pytest.mark.parametrize("workers", [0, 2])
def test_signal(number, by_epoch, validating, workers, folder, handlers, caplog):
    def config(length=3 if by_epoch else 9):
        cfg = toy_config(length=length, workers=workers, by_epoch=by_epoch)
        cfg.default_hooks.checkpoint.interval = 100
        return cfg

    run(config(), "whole")
    # Within the second epoch, or after it, or after any iteration.
    done = (10 if validating else 7) if by_epoch else 4
    hook = dict(type="SignalAt", done=done, numbers=(number,), validating=validating)
    with pytest.raises(SystemExit) as end:
        run(with_hook(config(), **hook), "run")
    assert end.value.code == 128 + number
    assert last("run") == "run/interrupted.pth"
    assert names("run") == {"interrupted.pth", "last_checkpoint"}
    assert len(state_of(last("run"))["losses"]) == done
    run(config(), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_signal_after_the_last_batch_of_an_epoch(folder, handlers):
    """The epoch's end, with its validation, comes after the resume."""
    cfg = toy_config(length=2, by_epoch=True)
    run(cfg, "whole")
    hook = dict(type="SignalAt", done=5, numbers=INTERRUPTS[:1])
    with pytest.raises(SystemExit):
        run(with_hook(toy_config(length=2, by_epoch=True), **hook), "run")
    run(cfg, "run", resume=True)
    assert names("run") == names("whole") | {"interrupted.pth"}
    assert_same(state_of("run/epoch_2.pth"), state_of("whole/epoch_2.pth"))


def test_second_ctrl_c_ends_at_once(folder, handlers, capfd):
    hook = dict(type="SignalAt", done=4, numbers=[signal.SIGINT] * 2)
    with pytest.raises(SystemExit) as end:
        run(with_hook(toy_config(), **hook), "run")
    assert end.value.code == 130
    assert "interrupted.pth" not in names("run") and last("run") == "run/iter_3.pth"
    printed = capfd.readouterr().err
    assert "Ctrl-C again ends at once" in printed
    assert re.search(r"Ctrl-C at once. The last good checkpoint is \S+iter_3.pth", printed)


def test_second_sigterm_changes_nothing(folder, handlers):
    hook = dict(type="SignalAt", done=4, numbers=[signal.SIGTERM] * 2)
    with pytest.raises(SystemExit) as end:
        run(with_hook(toy_config(), **hook), "run")
    assert end.value.code == 143 and last("run") == "run/interrupted.pth"


def test_signal_waits_for_accumulated_gradients(folder, handlers):
    """A checkpoint holds none; at the end of an update there are none."""

    def config():
        cfg = toy_config(length=9)
        cfg.optim_wrapper.accumulative_counts = 3
        cfg.default_hooks.checkpoint.interval = 100
        return cfg

    run(config(), "whole")
    with pytest.raises(SystemExit):
        run(with_hook(config(), type="SignalAt", done=4, numbers=INTERRUPTS[:1]), "run")
    assert len(state_of(last("run"))["losses"]) == 6
    run(config(), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_without_checkpoint_hook_nothing_is_written(folder, handlers):
    cfg = with_hook(toy_config(), type="SignalAt", done=2, numbers=INTERRUPTS[:1])
    cfg.default_hooks.checkpoint = None
    with pytest.raises(SystemExit) as end:
        run(cfg, "run")
    assert end.value.code == 143 and names("run") == set()


def test_another_signal(folder):
    cfg = with_hook(toy_config(), type="SignalAt", done=2, numbers=[signal.SIGUSR1])
    with pytest.raises(SystemExit) as end:
        run(with_hook(cfg, type="InterruptHook", signals=["SIGUSR1"]), "run")
    assert end.value.code == 128 + signal.SIGUSR1 and last("run") == "run/interrupted.pth"


@pytest.mark.parametrize("signals", [["SIGNOTHING"], ["SIGKILL"]])
def test_signals_that_cannot_be_taken_are_refused(signals):
    with pytest.raises(ValueError, match=f"{signals[0]}.*allowed"):
        InterruptHook(signals=signals)


def test_ignored_signal_stays_ignored(folder, handlers):
    """As in a background job of a shell script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(with_hook(toy_config(), type="SignalAt", done=2, numbers=[signal.SIGINT]), "run")
    assert last("run") == "run/iter_6.pth"
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_training_that_ends_gives_the_signals_back(folder, handlers):
    run(toy_config(length=2), "run")


def test_ctrl_c_outside_training(capsys):
    """While a tool checks data, or tests."""

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == 130 and capsys.readouterr().err == "\nStopped by Ctrl-C.\n"


def test_pool_of_an_evaluation_ends(folder, handlers, capfd):
    """mmdet's panoptic metric forks processes while the signals are taken, and terminates them."""

    @HOOKS.register_module(force=True)
    class WithPool(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(abs, [-1, -2]) == [1, 2]
                # A handler of Python would not run in a process that waits already.
                assert pool.map(signal.getsignal, INTERRUPTS) == [
                    signal.SIG_DFL,
                    signal.default_int_handler,
                ]

    run(with_hook(toy_config(length=2), type="WithPool"), "run")
    assert last("run") == "run/iter_2.pth" and "SIGTERM" not in capfd.readouterr().err


def test_training_that_fails_gives_the_signals_back(folder, handlers):
    @HOOKS.register_module(force=True)
    class Fail(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run(with_hook(toy_config(length=2), type="Fail"), "run")


# Nothing is left over.


def leftovers():
    """Running workers, and open files but the log's: MMEngine keeps one logger per run."""
    files = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # of the listing itself
            files.append(os.readlink(f"/proc/self/fd/{number}"))
    return multiprocessing.active_children(), sorted(f for f in files if not f.endswith(".log"))


def settled():
    """`leftovers`, when the threads that close a queue's pipe are done with it."""
    gc.collect()
    found = leftovers()
    for _ in range(50):
        time.sleep(0.1)
        before, found = found, leftovers()
        if found == before:
            break
    return found


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("by_epoch", [False, True], ids=["iterations", "epochs"])
@pytest.mark.parametrize("failing", [False, True], ids=["done", "failing"])
def test_workers_and_files_end_with_training(failing, by_epoch, persistent, folder):
    class Failure(Exception):
        pass

    @HOOKS.register_module(force=True)
    class FailAt(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if failing and runner.iter == 3:
                raise Failure

    def cfg():
        cfg = toy_config(length=2 if by_epoch else 5, workers=2, by_epoch=by_epoch)
        cfg.train_dataloader.persistent_workers = persistent
        return with_hook(cfg, type="FailAt")

    def train(name):
        with pytest.raises(Failure) if failing else nullcontext():
            run(cfg(), name)

    train("first")  # what is opened once for all
    before = settled()
    train("second")
    assert not before[0]
    assert settled() == before
