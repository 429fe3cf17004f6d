"""Writes that are cut off and disks that fail: checkpoints are whole or not there."""

import errno
import os
import threading
from pathlib import Path

import pytest
from mmengine.fileio import get_file_backend
from mmengine.registry import HOOKS
from toy_training import names, run, toy_config, with_hook
from training_runs import assert_same, last, state_of

from mmdualtoken.errors import InputError
from mmdualtoken.training import atomic_checkpoint as atomic
from mmdualtoken.training.interrupt import exit_cleanly


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), SystemExit()])
def test_a_write_that_fails_leaves_the_old_file(failing, error, here, monkeypatch):
    """A kill, unlike a full disk, leaves time for no clean-up."""

    def fail(*args):
        raise error

    Path("kept").write_bytes(b"old")
    Path("file").symlink_to("kept")
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(os, failing, fail)
        atomic.replace_file("file", b"new")
    assert Path("file").read_bytes() == b"old"
    assert Path(f"kept{atomic.PARTIAL}").exists() == isinstance(error, SystemExit)
    atomic.replace_file("file", b"new")
    assert Path("file").is_symlink() and Path("kept").read_bytes() == b"new"


def test_backend_of_the_stock_hook(here):
    """It is enough to name the backend where our hook is not wanted."""
    backend = get_file_backend("x", backend_args=dict(backend="atomic_local"))
    backend.put(b"bytes", "new/file")
    assert Path("new/file").read_bytes() == b"bytes"


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


@pytest.mark.parametrize(
    "cut, kept", [("iter_3", 1), ("best_error_iter_2", -1), ("best_error_iter_4", 1)]
)
def test_cut_off_while_a_checkpoint_is_written(cut, kept, here, monkeypatch):
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


def test_best_checkpoint_of_another_run_is_kept(here):
    """A run resumed into another folder knows the best of the first, which is not its own."""

    def config(length):
        cfg = toy_config(length=length)
        cfg.default_hooks.checkpoint.update(save_best="error", rule="less")
        return cfg

    run(config(3), "first")
    before = names("first")
    cfg = config(5)
    cfg.load_from = last("first")
    run(cfg, "second", resume=True)
    bests = [name for name in names("second") if name.startswith("best_")]
    assert names("first") == before and len(bests) == 1


def test_outdated_checkpoint_that_a_kill_left_is_removed(here, monkeypatch):
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


def test_full_disk(here, monkeypatch):
    """The last good checkpoint stays, also where only one is kept, and is named."""
    sync = os.fsync

    def full(descriptor):
        if "iter_3" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    cfg = toy_config()
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left.*last good checkpoint is .*run/iter_2.pth"):
        run(cfg, "run")
    assert names("run") == {"iter_2.pth", "last_checkpoint"}
    assert len(state_of("run/iter_2.pth")["losses"]) == 2


def test_work_dir_that_cannot_be_made(here):
    Path("taken").touch()
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    for name, said in (
        ("taken", "taken: File exists.*--work-dir.*No checkpoint has been"),
        ("taken/run", "Not a directory"),
        ("taken/deep/run", "taken.*: Not a directory"),
        ("dangling", "dangling: File exists"),
        ("loop", "loop: File exists"),
        ("x" * 300, "x: File name too long"),
    ):
        with pytest.raises(InputError, match=said):
            run(toy_config(), name)


def test_out_dir_that_cannot_be_written_fails_before_training(here, monkeypatch):
    """Not after the first epoch's hours."""
    Path("out").touch()
    cfg = with_hook(toy_config(), type="SignalAt", done=1)
    cfg.default_hooks.checkpoint.out_dir = "out"
    with pytest.raises(NotADirectoryError, match="out/run"):
        run(cfg, "run")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_in_a_thread(capsys):
    """TensorBoard's; training meets the same error when it logs again."""

    def fail(error):
        raise error

    before = threading.excepthook
    with exit_cleanly("run"):
        for error in (OSError(errno.ENOSPC, "it is full"), ValueError("something else")):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
    assert threading.excepthook is before
    printed = capsys.readouterr().err
    assert "it is full" not in printed and "ValueError: something else" in printed


@pytest.mark.parametrize(
    "number, text",
    [
        (errno.ENOSPC, "Training cannot write to run: No space left"),
        (errno.EIO, "Training cannot write to run, or cannot read its data: Input/output error"),
    ],
)
def test_errors_that_name_no_file(number, text):
    """Reading fails without a name, too."""
    with pytest.raises(InputError, match=text), exit_cleanly("run"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "number, file", [(errno.ENOENT, "run/image.jpg"), (errno.EACCES, "elsewhere/image.jpg")]
)
def test_other_errors_keep_their_traceback(number, file):
    with pytest.raises(OSError, match=file), exit_cleanly("run"):
        raise OSError(number, os.strerror(number), file)
