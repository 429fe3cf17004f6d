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

SLOW = pytest.mark.slow
RUN = ("--work-dir", "run")


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
    return sorted(p for p in folder.glob("*.pth"))


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
    for kill in range(kills):
        run = Run(tmp_path, "train", config, *RUN, *(["--resume"] if kill else []))
        before = last(run_dir) if kill else None
        if kill % 3 == 1:
            time.sleep(moments.uniform(0, 1.5))
        else:
            while not (run_dir / "last_checkpoint").exists() or last(run_dir) == before:
                assert run.process.is_alive(), run.output
                time.sleep(0.01)
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
    assert_same(state_of(tmp_path / last(run_dir)), state_of(tmp_path / last(tmp_path / "whole")))


@SLOW
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_signal_to_all_processes_of_a_run(task, number, tmp_path):
    """As Ctrl-C in a terminal and some schedulers send it, to the workers too."""
    write_scenes(tmp_path, 10)

    def config():
        cfg = random_config(task, workers=2)
        cfg.randomness = dict(seed=0)
        cfg.train_cfg.update(max_epochs=3) if task == "classification" else None
        cfg.train_cfg.update(max_iters=9) if task == "segmentation" else None
        cfg.default_hooks.checkpoint.interval = 100
        return cfg

    assert train(tmp_path, config(), "whole")[0] == 0
    cfg = config()
    cfg.custom_hooks.append(dict(type="SignalAt", done=4, numbers=[int(number)], to="group"))
    status, output = train(tmp_path, cfg, "run")
    assert status == 128 + number, output
    assert "Traceback" not in output and "interrupted.pth holds its state" in output
    status, output = train(tmp_path, config(), "run", "--resume")
    assert status == 0 and "data and random numbers continue exactly" in output
    ends = [state_of(tmp_path / last(tmp_path / name)) for name in ("run", "whole")]
    assert_same(*ends)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_when_nobody_reads(number, tmp_path):
    """`train.py ... | tee log`: Ctrl-C has ended tee as well."""
    cfg = toy_config(length=6)
    cfg.default_hooks.checkpoint.interval = 100
    cfg.custom_hooks += [
        dict(type="NobodyReads"),
        dict(type="SignalAt", done=4, numbers=[int(number)]),
    ]
    assert train(tmp_path, cfg, "run")[0] == 128 + number
    assert last(tmp_path / "run") == "run/interrupted.pth"
    cfg.custom_hooks[-1].numbers = [int(signal.SIGINT)] * 2
    assert train(tmp_path, cfg, "twice")[0] == 130
    assert not list((tmp_path / "twice").glob("*.pth"))


def test_second_training_in_the_same_folder(tmp_path):
    """Both would write the same files. The lock is gone with the first one, however it ends."""
    cfg = toy_config(length=10**6, workers=1)
    cfg.train_cfg.val_interval = 10**6
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    first = Run(tmp_path, "train", write_config(cfg, tmp_path / "first.py"), *RUN)
    run_dir = tmp_path / "run"
    while not (run_dir / "last_checkpoint").exists():
        assert first.process.is_alive(), first.output
        time.sleep(0.01)
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
    run = Run(tmp_path, "train", write_config(cfg, tmp_path / "c.py"))
    while not list(tmp_path.glob("work_dirs/c/iter_2.pth")):
        assert run.process.is_alive(), run.output
        time.sleep(0.1)
    assert not group_is_empty(run)
    run.kill()
    assert group_ends(run), "workers still run half a minute after their process was killed"


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
    while len(subprocess.run(children, capture_output=True).stdout.split()) < 2:
        assert run.process.is_alive(), run.output
        time.sleep(0.1)
    time.sleep(2)  # until their pipes are full
    run.kill()
    assert group_ends(run), "workers still run half a minute after their process was killed"


def group_ends(run, seconds=30):
    """Whether every process of the run's group ends: the last ones may be about to."""
    for _ in range(10 * seconds):
        if group_is_empty(run):
            return True
        time.sleep(0.1)
    return False


def group_is_empty(run):
    try:
        os.killpg(run.process.pid, 0)
    except ProcessLookupError:
        return True
    return False


@SLOW
def test_nothing_runs_on_after_a_tool(tmp_path):
    write_scenes(tmp_path, 10)
    cfg = random_config("classification", workers=2)
    cfg.test_dataloader.update(num_workers=2, persistent_workers=True)
    config = write_config(cfg, tmp_path / "c.py")
    training = Run(tmp_path, "train", config, *RUN)
    assert training.wait() == 0, training.output
    assert group_ends(training)
    testing = Run(tmp_path, "test", config, "run/epoch_1.pth")
    assert testing.wait() == 0, testing.output
    assert group_ends(testing)
    cfg.custom_hooks.append(dict(type="SignalAt", done=2, numbers=["no signal"]))
    failing = Run(tmp_path, "train", write_config(cfg, tmp_path / "failing.py"))
    assert failing.wait() == 1 and "TypeError" in failing.output and group_ends(failing)


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
    checked_end(status, output, "the disk is full", "/iter_3.pth:", f"{disk}/run/iter_2.pth")
    assert [p.name for p in kept_ones(disk / "run")] == ["iter_1.pth", "iter_2.pth"]
    state_of(disk / "run" / "iter_2.pth")
    (disk / "run" / "iter_1.pth").unlink()
    cfg.train_cfg.max_iters = 3
    assert train(tmp_path, cfg, disk / "run", "--resume")[0] == 0


@SLOW
def test_disk_that_is_full_when_training_begins(tmp_path, tmpfs):
    disk = tmpfs("size=1m")
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(b"0" * 2**21)
    cfg = toy_config()
    cfg.log_level = "INFO"  # the log is on the full disk too
    status, output = train(tmp_path, cfg, disk / "run")
    checked_end(status, output, "the disk is full", "No checkpoint has been written yet")


@SLOW
def test_read_only_disk(tmp_path, tmpfs):
    disk = tmpfs("ro")
    status, output = train(tmp_path, toy_config(), disk / "run")
    checked_end(status, output, "the file system is read-only", f"{disk}/run")


@SLOW
def test_files_may_not_be_that_large(tmp_path):
    status, output = train(tmp_path, toy_config(width=1000), "run", file_limit=5_000_000)
    checked_end(status, output, "larger than the limit", "No checkpoint has been written yet")
    assert kept_ones(tmp_path / "run") == []
    assert not list((tmp_path / "run").glob(f"*{PARTIAL}"))


@SLOW
def test_two_processes_stop_together(tmp_path):
    """Though one alone is told, or the launcher; and go on exactly."""

    def start(cfg, name, *args):
        config = write_config(cfg, tmp_path / f"{name}.py")
        return launch("dist_train.sh", config, 2, "--work-dir", name, *args, folder=tmp_path)

    def config(length=8):
        cfg = toy_config(length=length, workers=1)
        cfg.default_hooks.checkpoint.interval = 100
        return cfg

    status, output = start(config(), "whole")
    assert status == 0, output
    for to in ("process", "launcher"):
        cfg = config(length=1000 if to == "launcher" else 8)
        hook = dict(type="SignalAt", done=3, numbers=[int(signal.SIGTERM)], to=to, rank=1)
        cfg.custom_hooks.append(hook)
        status, output = start(cfg, to)
        assert status != 0 and output.count("interrupted.pth holds its state") == 1, output
        done = state_of(tmp_path / to / "interrupted.pth")
        assert done["exact_resume"]["processes"] == 2
        assert len(done["losses"]) == 3 or to == "launcher"
    status, output = start(config(), "process", "--resume")
    assert status == 0 and "not exact" not in output, output
    ends = [state_of(tmp_path / last(tmp_path / name)) for name in ("process", "whole")]
    assert_same(*ends)
