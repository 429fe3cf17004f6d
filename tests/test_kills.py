"""The tools in processes of their own: killed, interrupted, and on disks that cannot be written."""

import os
import random
import signal
import subprocess
import time

import pytest
import training_runs
from ranks import launch
from toy_training import toy_config
from training_runs import (
    Run,
    assert_same,
    last,
    random_config,
    state_of,
    train,
    write_config,
    write_scenes,
)

from mmdualtoken.files import PARTIAL
from mmdualtoken.weights.checkpoints import load_file

pytestmark = pytest.mark.processes
SLOW = pytest.mark.slow
RUN = ("--work-dir", "run")
TERM, INT = int(signal.SIGTERM), int(signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def server():
    training_runs.start_server()


@pytest.fixture
def tmpfs(tmp_path):
    """Mounts a file system of the size asked for."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting a file system is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)


def kept_ones(folder):
    return sorted(folder.glob("*.pth"))


def wait_for(condition, run):
    """Wait until something holds, while the run does."""
    while not condition():
        assert run.process.is_alive(), run.output
        time.sleep(0.01)


def assert_same_end(folder, *runs):
    assert_same(*(state_of(folder / last(folder / name)) for name in runs))


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=SLOW)])
def test_killed_at_random_moments(kills, tmp_path):
    """Training that does little but write checkpoints. Whenever it is killed, all that is left can
    be loaded, `last_checkpoint` names one, and in the end nothing tells that it was killed at all.

    Every third run is killed from its start on, perhaps before it has resumed; the others when they
    have written a checkpoint.
    """
    cfg = toy_config(width=1000, length=300)  # 12 MB a checkpoint
    cfg.train_cfg.val_interval = 1000
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    config = write_config(cfg, tmp_path / "toy.py")
    moments = random.Random(0)
    cut_off = 0
    run_dir = tmp_path / "run"

    def has_written():
        return (run_dir / "last_checkpoint").exists() and last(run_dir) != before

    for kill in range(kills):
        run = Run(tmp_path, "train", config, *RUN, *(["--resume"] if kill else []))
        before = last(run_dir) if kill else None
        if kill % 3 == 1:
            time.sleep(moments.uniform(0, 1.5))
        else:
            wait_for(has_written, run)
            time.sleep(moments.uniform(0, 0.3))
        run.kill()
        cut_off += any(run_dir.glob(f"*{PARTIAL}"))
        assert tmp_path / last(run_dir) in kept_ones(run_dir)
        for file in kept_ones(run_dir):
            load_file(file)
    print(f"\nkilled while a checkpoint was written: {cut_off} of {kills}, at {last(run_dir)}")
    done = state_of(tmp_path / last(run_dir))
    cfg.train_cfg.max_iters = len(done["losses"]) + 1
    assert train(tmp_path, cfg, "run", "--resume")[0] == 0
    assert not list(run_dir.glob(f"*{PARTIAL}"))
    cfg.default_hooks.checkpoint.interval = 1000
    assert train(tmp_path, cfg, "whole")[0] == 0
    assert len(kept_ones(run_dir)) == 2
    assert_same_end(tmp_path, "run", "whole")


@SLOW
@pytest.mark.parametrize("task, number", [("classification", TERM), ("segmentation", INT)])
def test_signal_to_all_processes_of_a_run(task, number, tmp_path):
    """As Ctrl-C in a terminal and some schedulers send it, to the workers too."""
    write_scenes(tmp_path, 10)

    def config(*hooks):
        cfg = random_config(task, workers=2)
        cfg.randomness = dict(seed=0)
        cfg.train_cfg.update(max_epochs=3) if task == "classification" else None
        cfg.train_cfg.update(max_iters=9) if task == "segmentation" else None
        cfg.default_hooks.checkpoint.interval = 100
        cfg.custom_hooks += hooks
        return cfg

    assert train(tmp_path, config(), "whole")[0] == 0
    kill = dict(type="SignalAt", done=4, numbers=[number], to="group")
    status, output = train(tmp_path, config(kill), "run")
    assert status == 128 + number, output
    assert "Traceback" not in output and "interrupted.pth holds its state" in output
    status, output = train(tmp_path, config(), "run", "--resume")
    assert status == 0 and "data and random numbers continue exactly" in output
    assert_same_end(tmp_path, "run", "whole")


def test_signal_when_nobody_reads(tmp_path):
    """`train.py ... | tee log`: Ctrl-C has ended tee as well."""
    cfg = toy_config(length=6)
    cfg.default_hooks.checkpoint.interval = 100
    cfg.custom_hooks += [dict(type="NobodyReads"), dict(type="SignalAt", done=4)]
    for name, numbers in (("run", [INT]), ("twice", [INT, INT])):
        cfg.custom_hooks[-1].numbers = numbers
        assert train(tmp_path, cfg, name)[0] == 130
    assert last(tmp_path / "run") == "run/interrupted.pth"
    assert not list((tmp_path / "twice").glob("*.pth"))


def test_second_training_in_the_same_folder(tmp_path):
    """Both would write the same files. The lock is gone with the first one, however it ends."""
    cfg = toy_config(length=10**6, workers=1)
    cfg.train_cfg.val_interval = 10**6
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    first = Run(tmp_path, "train", write_config(cfg, tmp_path / "first.py"), *RUN)
    run_dir = tmp_path / "run"
    wait_for((run_dir / "last_checkpoint").exists, first)
    (tmp_path / "link").symlink_to(run_dir)
    for args in (("run", "--resume"), ("link", "--overwrite")):
        status, output = train(tmp_path, toy_config(), *args)
        checked_end(status, output, f"into the work dir {args[0]}", "--work-dir")
    assert first.process.is_alive()
    first.kill()
    cfg = toy_config(length=len(state_of(tmp_path / last(run_dir))["losses"]) + 1)
    assert train(tmp_path, cfg, "run", "--resume")[0] == 0


@SLOW
@pytest.mark.parametrize("ballast", [0, 10**6], ids=["pipes empty", "pipes full"])
def test_workers_end_with_a_killed_run(ballast, tmp_path):
    """They ignore a scheduler's SIGTERM, and see for themselves that nobody is left to serve.

    With more in the pipe to the killed process than it takes, torch's own workers never end.
    """
    cfg = toy_config(1000, 2, length=10**6)
    cfg.train_dataloader.dataset.ballast = ballast
    run = Run(tmp_path, "train", write_config(cfg, tmp_path / "c.py"), *RUN)
    wait_for((tmp_path / "run/iter_2.pth").exists, run)
    run.kill()
    assert_group_ends(run)


@SLOW
def test_workers_end_with_a_killed_test(tmp_path):
    """The same of tools/test.py, which has nothing to write first."""
    cfg = toy_config(1000, 2, length=2)
    assert train(tmp_path, cfg, "run")[0] == 0
    endless = dict(cfg.val_dataloader, sampler=dict(type="InfiniteSampler"))
    endless["dataset"] = dict(endless["dataset"], ballast=10**6)
    cfg.update(test_dataloader=endless, test_evaluator=cfg.val_evaluator, test_cfg=dict())
    run = Run(tmp_path, "test", write_config(cfg, tmp_path / "c.py"), last(tmp_path / "run"))
    children = ["pgrep", "-P", str(run.process.pid)]
    wait_for(lambda: len(subprocess.run(children, capture_output=True).stdout.split()) == 2, run)
    time.sleep(2)  # until their pipes are full
    run.kill()
    assert_group_ends(run)


def assert_group_ends(run, seconds=30):
    """Every process of the run's group ends: the last ones may be about to."""
    for _ in range(10 * seconds):
        try:
            os.killpg(run.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"workers still run {seconds} s after their process has ended")


@SLOW
def test_nothing_runs_on_after_a_tool(tmp_path):
    write_scenes(tmp_path, 10)
    cfg = random_config("classification", workers=2)
    cfg.test_dataloader.update(num_workers=2, persistent_workers=True)
    config = write_config(cfg, tmp_path / "c.py")
    cfg.custom_hooks.append(dict(type="SignalAt", done=2, numbers=["no signal"]))
    failing = write_config(cfg, tmp_path / "failing.py")
    for arguments, status in (
        (["train", config, *RUN], 0),
        (["test", config, "run/epoch_1.pth"], 0),
        (["train", failing], 1),
    ):
        run = Run(tmp_path, *arguments)
        assert run.wait() == status, run.output
        assert_group_ends(run)
    assert "TypeError" in run.output


def checked_end(status, output, *texts):
    """Exit status 2 and one paragraph, at the end."""
    assert status == 2, output
    assert "Traceback" not in output and "Logging error" not in output, output
    paragraph = output.rstrip().splitlines()[-1]
    assert paragraph.startswith("error: ")
    for text in texts:
        assert text in paragraph


@SLOW
def test_disk_that_gets_full(tmp_path, tmpfs):
    disk = tmpfs("size=40m")
    cfg = toy_config(width=1000, length=9)
    status, output = train(tmp_path, cfg, disk / "run")
    checked_end(status, output, "No space left", "/iter_3.pth:", f"{disk}/run/iter_2.pth")
    assert [p.name for p in kept_ones(disk / "run")] == ["iter_1.pth", "iter_2.pth"]
    state_of(disk / "run" / "iter_2.pth")
    (disk / "run" / "iter_1.pth").unlink()
    cfg.train_cfg.max_iters = 3
    assert train(tmp_path, cfg, disk / "run", "--resume")[0] == 0


@SLOW
def test_disk_that_cannot_be_written_from_the_start(tmp_path, tmpfs):
    disk = tmpfs("size=1m")
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(b"0" * 2**21)
    cfg = toy_config()
    cfg.log_level = "INFO"  # the log is on the full disk too
    status, output = train(tmp_path, cfg, disk / "run")
    checked_end(status, output, "No space left", "No checkpoint has been written yet")
    subprocess.run(["umount", "--lazy", disk], check=True)
    tmpfs("ro")
    status, output = train(tmp_path, toy_config(), disk / "run")
    checked_end(status, output, "Read-only file system", f"{disk}/run")
    status, output = train(tmp_path, toy_config(width=1000), "run", file_limit=5_000_000)
    checked_end(status, output, "File too large", "No checkpoint has been written yet")
    assert not [p for p in (tmp_path / "run").iterdir() if p.suffix in (".pth", PARTIAL)]


@SLOW
def test_two_processes_stop_together(tmp_path):
    """Though one alone is told, or the launcher; and go on exactly."""

    def start(name, *args, length=8, hooks=()):
        cfg = toy_config(length=length, workers=1)
        cfg.default_hooks.checkpoint.interval = 100
        cfg.custom_hooks += hooks
        config = write_config(cfg, tmp_path / f"{name}.py")
        return launch("dist_train.sh", config, 2, "--work-dir", name, *args, folder=tmp_path)

    status, output = start("whole")
    assert status == 0, output
    for to, length in (("process", 8), ("launcher", 1000)):
        hook = dict(type="SignalAt", done=3, numbers=[TERM], to=to, rank=1)
        status, output = start(to, length=length, hooks=[hook])
        assert status != 0 and output.count("interrupted.pth holds its state") == 1, output
        done = state_of(tmp_path / to / "interrupted.pth")
        assert done["exact_resume"]["processes"] == 2
        assert len(done["losses"]) == 3 or to == "launcher"
    status, output = start("process", "--resume")
    assert status == 0 and "not exact" not in output, output
    assert_same_end(tmp_path, "process", "whole")
