"""Kills, signals and disks that fail: what is left can be loaded, and training goes on from it."""

import errno
import gc
import multiprocessing
import os
import re
import signal
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from toy_training import run, toy_config, with_hook
from training_runs import assert_same, last, state_of

from mmdualtoken.engine import InputError, InterruptHook
from mmdualtoken.engine import atomic_checkpoint as atomic
from mmdualtoken.engine.clear_end import clear_end

INTERRUPTS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder):
    """Files of a work dir, without the config and the logs."""
    return {p.name for p in Path(folder).iterdir() if p.is_file() and p.suffix != ".py"}


# Files are whole or not there.


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(failing, folder, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic.replace_file("file", b"old")
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        atomic.replace_file("file", b"new")
    assert Path("file").read_bytes() == b"old" and names(".") == {"file"}


def test_a_write_that_is_cut_off_leaves_the_old_file(folder, monkeypatch):
    def killed(*args):
        raise SystemExit  # no clean-up for an OSError runs either

    atomic.replace_file("file", b"old")
    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(SystemExit):
        atomic.replace_file("file", b"new")
    assert Path("file").read_bytes() == b"old"
    assert names(".") == {"file", "file" + atomic.PARTIAL}


def test_replaced_file_may_be_a_link(folder):
    Path("kept").mkdir()
    Path("kept/file").write_bytes(b"old")
    Path("file").symlink_to("kept/file")
    atomic.replace_file("file", b"new")
    assert Path("file").is_symlink() and Path("kept/file").read_bytes() == b"new"


def test_backend_of_the_stock_hook(folder):
    """It is enough to name the backend where our hook is not wanted."""
    from mmengine.fileio import get_file_backend

    backend = get_file_backend("x", backend_args=dict(backend="atomic_local"))
    backend.put(b"bytes", "new/file")
    backend.put_text("text", "new/text")
    assert Path("new/file").read_bytes() == b"bytes" and Path("new/text").read_text() == "text"


@pytest.mark.parametrize("given", [None, dict(backend="local")])
def test_local_backend_is_replaced(given):
    hook = dict(type="AtomicCheckpointHook", backend_args=given)
    assert HOOKS.build(hook).backend_args == dict(backend="atomic_local")
    other = dict(backend="petrel")
    assert HOOKS.build({**hook, "backend_args": other}).backend_args == other


class Cut(BaseException):
    """Ends a run like a kill: nothing handles it."""


def cut_write(monkeypatch, name):
    """Cut off the writing of files whose name begins so, half-way."""
    replace = atomic.replace_file

    def cut(path, content):
        if Path(path).name.startswith(name):
            Path(f"{path}{atomic.PARTIAL}").write_bytes(content[: len(content) // 2])
            raise Cut
        replace(path, content)

    monkeypatch.setattr(atomic, "replace_file", cut)


@pytest.mark.parametrize("cut", ["iter_3", "best_error_iter_2", "best_error_iter_4"])
@pytest.mark.parametrize("kept", [-1, 1])
def test_cut_off_while_a_checkpoint_is_written(cut, kept, folder, monkeypatch):
    def config():
        cfg = toy_config(length=5)
        cfg.default_hooks.checkpoint.update(max_keep_ckpts=kept, save_best="error", rule="less")
        return cfg

    run(config(), "whole")
    with monkeypatch.context() as patch:
        cut_write(patch, cut)
        with pytest.raises(Cut):
            run(config(), "cut")
    step = 2 if cut == "iter_3" else int(cut[-1])
    assert last("cut") == f"cut/iter_{step}.pth"
    assert state_of(last("cut"))["exact_resume"]
    assert f"{cut}.pth{atomic.PARTIAL}" in names("cut")
    assert ("best_error_iter_2.pth" in names("cut")) == (cut != "best_error_iter_2")
    run(config(), "cut", resume=True)
    assert names("cut") == names("whole")
    assert_same(state_of(last("cut")), state_of(last("whole")))


def test_outdated_checkpoint_that_a_kill_left_is_removed(folder, monkeypatch):
    def config(length):
        cfg = toy_config(length=length)
        cfg.default_hooks.checkpoint.max_keep_ckpts = 2
        return cfg

    def killed(*args):
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(atomic.AtomicCheckpointHook, "_remove", killed)
        with pytest.raises(Cut):
            run(config(3), "run")
    assert names("run") == {"iter_1.pth", "iter_2.pth", "iter_3.pth", "last_checkpoint"}
    run(config(3), "run", resume=True)
    assert names("run") == {"iter_2.pth", "iter_3.pth", "last_checkpoint"}


def test_full_disk(folder, monkeypatch):
    """The last good checkpoint stays, also where only one is kept, and is named."""
    sync = os.fsync

    def full(descriptor):
        if "iter_3" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    cfg = toy_config()
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="disk is full.*last good checkpoint is .*run/iter_2.pth"):
        run(cfg, "run")
    assert names("run") == {"iter_2.pth", "last_checkpoint"}
    assert len(state_of("run/iter_2.pth")["losses"]) == 2


def test_work_dir_is_a_file(folder):
    Path("taken").touch()
    with pytest.raises(InputError, match="taken: a file is in the folder's place.*--work-dir"):
        run(toy_config(), "taken")
    with pytest.raises(InputError, match="a part of the path is a file.*No checkpoint has been"):
        run(toy_config(), "taken/run")


def test_out_dir_that_cannot_be_written_fails_before_training(folder, monkeypatch):
    """Not after the first epoch's hours."""
    Path("out").touch()
    cfg = with_hook(toy_config(), type="SignalAt", done=1)
    cfg.default_hooks.checkpoint.out_dir = "out"
    with pytest.raises(NotADirectoryError, match="out/run"):
        run(cfg, "run")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "run/image.jpg"),
        PermissionError(errno.EACCES, "Permission denied", "elsewhere/image.jpg"),
    ],
    ids=["of another kind", "elsewhere"],
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)), clear_end("run"):
        raise error


# Signals: a checkpoint, a status, and on from there as if nothing had been.


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


def test_pool_of_an_evaluation_ends(folder, handlers, capfd):
    """mmdet's panoptic metric forks processes while the signals are taken, and terminates them."""

    @HOOKS.register_module(force=True)
    class WithPool(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(abs, [-1, -2]) == [1, 2]

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
    gc.collect()
    before = leftovers()
    train("second")
    gc.collect()
    assert not before[0]
    assert leftovers() == before
