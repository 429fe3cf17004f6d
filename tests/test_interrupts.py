"""Signals end training with a checkpoint and on from there exactly; nothing is left over."""

import gc
import multiprocessing
import os
import re
import signal
import time
from contextlib import nullcontext, suppress
from unittest.mock import Mock

import pytest
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from toy_training import names, run, stop, toy_config, with_hook
from training_runs import assert_same, last, state_of

from mmdualtoken.cli import run_tool
from mmdualtoken.training.interrupt import InterruptHook

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("here")]
TERM, INT = INTERRUPTS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def handlers():
    """Signal handlers as in a terminal, and the same when the test ends."""
    usual = [signal.SIG_DFL, signal.default_int_handler]
    before = [signal.signal(n, h) for n, h in zip(INTERRUPTS, usual, strict=True)]
    yield
    after = [signal.signal(n, h) for n, h in zip(INTERRUPTS, before, strict=True)]
    assert after == usual


def config(by_epoch=False, workers=0, **settings):
    """Without checkpoints but for the last one."""
    cfg = toy_config(length=3 if by_epoch else 9, workers=workers, by_epoch=by_epoch)
    cfg.default_hooks.checkpoint.interval = 100
    cfg.optim_wrapper.update(settings)
    return cfg


@pytest.mark.parametrize(
    "number, by_epoch, validating, workers",
    [
        (TERM, False, False, 0),
        (TERM, True, True, 2),
        (INT, False, True, 0),
        (INT, True, False, 2),
        (INT, False, False, 2),
        (TERM, True, False, 0),
    ],
)
def test_signal(number, by_epoch, validating, workers):
    run(config(by_epoch), "whole")
    # Within the second epoch, or after it, or after any iteration.
    done = (10 if validating else 7) if by_epoch else 4
    status = stop(config(by_epoch, workers), "run", done, [number], validating=validating)
    assert status == 128 + number
    assert last("run") == "run/interrupted.pth"
    assert names("run") == {"interrupted.pth", "last_checkpoint"}
    assert len(state_of(last("run"))["losses"]) == done
    run(config(by_epoch, workers), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_signal_in_a_validation_of_the_weights_themselves():
    """mmpretrain's hook may evaluate them, too; the averages are then not in the model."""

    def config_of_both():
        cfg = config()
        hook = dict(type="mmpretrain.EMAHook", evaluate_on_ema=False, evaluate_on_origin=True)
        cfg.custom_hooks = [dict(hook, momentum=0.1)]
        return cfg

    run(config_of_both(), "whole")
    assert stop(config_of_both(), "run", 4, validating=True) == 143
    run(config_of_both(), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_averages_are_noted_once():
    """Also where one runner trains twice."""
    averages = EMAHook()
    averages._swap_ema_parameters = Mock()
    hook, runner = InterruptHook(), Mock(hooks=[averages])
    for _ in range(2):
        hook.before_train(runner)
        hook.after_train(runner)
    averages._swap_ema_parameters()
    assert hook._averaged == {averages}
    averages._swap_ema_parameters()
    assert not hook._averaged


def test_signal_after_the_last_batch_of_an_epoch():
    """The epoch's end, with its validation, comes after the resume."""
    run(toy_config(length=2, by_epoch=True), "whole")
    stop(toy_config(length=2, by_epoch=True), "run", done=5)
    run(toy_config(length=2, by_epoch=True), "run", resume=True)
    assert names("run") == names("whole") | {"interrupted.pth"}
    assert_same(state_of("run/epoch_2.pth"), state_of("whole/epoch_2.pth"))


def test_second_ctrl_c_ends_at_once(capfd):
    assert stop(toy_config(), "run", 4, [INT] * 2) == 130
    assert "interrupted.pth" not in names("run") and last("run") == "run/iter_3.pth"
    printed = capfd.readouterr().err
    assert "Ctrl-C again ends at once" in printed
    assert re.search(r"Ctrl-C at once. The last good checkpoint is \S+iter_3.pth", printed)


def test_second_sigterm_changes_nothing():
    assert stop(toy_config(), "run", 4, [TERM] * 2) == 143
    assert last("run") == "run/interrupted.pth"


def test_signal_waits_for_accumulated_gradients():
    """A checkpoint holds none; at the end of an update there are none."""
    run(config(accumulative_counts=3), "whole")
    stop(config(accumulative_counts=3), "run", done=4)
    assert len(state_of(last("run"))["losses"]) == 6
    run(config(accumulative_counts=3), "run", resume=True)
    assert_same(state_of(last("run")), state_of(last("whole")))


def test_without_checkpoint_hook_nothing_is_written():
    cfg = toy_config()
    cfg.default_hooks.checkpoint = None
    assert stop(cfg, "run", done=2) == 143 and names("run") == set()


def test_another_signal():
    cfg = with_hook(toy_config(), type="InterruptHook", signals=["SIGUSR1"])
    assert stop(cfg, "run", 2, [signal.SIGUSR1]) == 128 + signal.SIGUSR1
    assert last("run") == "run/interrupted.pth"


def test_ignored_signal_stays_ignored():
    """As in a background job of a shell script."""
    signal.signal(INT, signal.SIG_IGN)
    run(with_hook(toy_config(), type="SignalAt", done=2, numbers=[INT]), "run")
    assert last("run") == "run/iter_6.pth"
    signal.signal(INT, signal.default_int_handler)


def test_ctrl_c_outside_training(capsys):
    """While a tool checks data, or tests."""

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == 130 and capsys.readouterr().err == "\nStopped by Ctrl-C.\n"


def test_pool_of_an_evaluation_ends(capfd):
    """mmdet's panoptic metric forks processes while the signals are taken, and terminates them."""

    @HOOKS.register_module(force=True)
    class WithPool(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                # A handler of Python would not run in a process that waits already.
                handlers = [signal.SIG_DFL, signal.default_int_handler]
                assert pool.map(signal.getsignal, INTERRUPTS) == handlers

    run(with_hook(toy_config(length=2), type="WithPool"), "run")
    assert last("run") == "run/iter_2.pth" and "SIGTERM" not in capfd.readouterr().err


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


class Failure(Exception):
    pass


@HOOKS.register_module()
class FailAt(Hook):
    """Fails in the fourth iteration, if it is to."""

    def __init__(self, failing):
        self.failing = failing

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.failing and runner.iter == 3:
            raise Failure


@pytest.mark.parametrize(
    "failing, by_epoch, persistent",
    [(False, False, False), (False, True, True), (True, False, True), (True, True, False)],
)
def test_workers_and_files_end_with_training(failing, by_epoch, persistent):
    """And the signals are given back."""

    def train(name):
        cfg = toy_config(length=2 if by_epoch else 5, workers=2, by_epoch=by_epoch)
        cfg.train_dataloader.persistent_workers = persistent
        with pytest.raises(Failure) if failing else nullcontext():
            run(with_hook(cfg, type="FailAt", failing=failing), name)

    train("first")  # what is opened once for all
    before = settled()
    train("second")
    assert not before[0]
    assert settled() == before
