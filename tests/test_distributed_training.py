"""Training and testing by tools/dist_train.sh and dist_test.sh: two processes on gloo."""

import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import ROOT, WORLD, environment, free_port, launch
from tasks import DETECTOR, TASKS
from training_runs import assert_same

pytestmark = pytest.mark.processes
SECONDS = 300  # until a process counts as one that does not end
EVERY_2 = "default_hooks.checkpoint.interval=2"
#: Heads of the narrow segmentor read the last map only: the others' norms are not built.
READ_MAPS = {"segmentation": ["model.backbone.out_indices=[2]", "model.decode_head.in_index=0"]}


def faulty(number, **more):
    """A config whose second process gets a signal after the fifth iteration, and its path."""
    path = Path("faulty.py")
    hook = dict(type="SignalAt", done=5, numbers=[int(number)], rank=1)
    lines = [
        f"_base_ = {DETECTOR!r}",
        "custom_imports = dict(imports=['mmdualtoken', 'toy_training'])",
        f"custom_hooks = [{hook!r}]",
        *(f"{key} = {value!r}" for key, value in more.items()),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def checkpoints(work_dir):
    return sorted(p.name for p in Path(work_dir).glob("*.pth"))


def only_log(work_dir):
    """The text of the work dir's log; a second process would write one of its own."""
    (log,) = Path(work_dir).glob("*/*.log")
    return log.read_text()


def losses(work_dir):
    """The logged losses by iteration, of every run in the work dir."""
    files = sorted(Path(work_dir).glob("*/vis_data/scalars.json"))
    entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def check_resumed(work_dir, last):
    """The second run, of two processes, goes on after iteration 4 and ends with `last`."""
    options = [EVERY_2, f"train_cfg.max_iters={last}"]
    command = ["dist_train.sh", DETECTOR, WORLD, "--work-dir", work_dir, "--resume"]
    status, printed = launch(*command, "--cfg-options", *options)
    assert status == 0, printed[-3000:]
    assert "iter_4.pth" in printed and "resumed" in printed.lower()
    assert checkpoints(work_dir) == [f"iter_{i}.pth" for i in range(2, last + 1, 2)]
    state = torch.load(f"{work_dir}/iter_{last}.pth", weights_only=False)
    assert state["message_hub"]["runtime_info"]["iter"] == last - 1
    assert sorted(losses(work_dir)) == list(range(1, last + 1))


@pytest.mark.parametrize("resume", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_process_ends_the_run(resume, project):
    """Two processes write one log and one checkpoint at a time; then one dies."""
    config = faulty(signal.SIGKILL)
    options = ["train_cfg.max_iters=1000", EVERY_2]
    status, printed = launch(
        "dist_train.sh", config, WORLD, "--work-dir", "run", "--cfg-options", *options
    )
    assert status != 0
    assert "Signal 9 (SIGKILL)" in printed
    assert checkpoints("run") == ["iter_2.pth", "iter_4.pth"]
    log = only_log("run")
    assert "Distributed training: True" in log and "GPU number: 2" in log
    assert sorted(losses("run"))[:4] == [1, 2, 3, 4]
    if resume:
        check_resumed("run", last=8)


def test_resume_where_only_one_machine_has_the_checkpoint(project):
    """The other process would average in the gradients of weights that nobody trained."""
    lines = [
        f"_base_ = {DETECTOR!r}",
        'work_dir = "run" + __import__("os").environ["RANK"]',  # each has a disk of its own
    ]
    Path("apart.py").write_text("\n".join(lines) + "\n")
    command = ["dist_train.sh", "apart.py", WORLD, "--no-watch"]
    status, printed = launch(*command, "--cfg-options", EVERY_2, "train_cfg.max_iters=2")
    assert status == 0 and checkpoints("run0") == ["iter_2.pth"], printed[-3000:]
    options = [EVERY_2, "train_cfg.max_iters=4"]
    status, printed = launch(*command, "--resume", "--cfg-options", *options)
    assert status != 0 and "would start at different iterations, 0 to 2" in printed
    assert checkpoints("run0") == ["iter_2.pth"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, timeout", [(signal.SIGKILL, 1800), (signal.SIGSTOP, 60)], ids=["killed", "hangs"]
)
def test_without_an_agent(number, timeout, project):
    """Processes started by hand: the other's closed connection ends one, or the timeout."""
    config = faulty(number, env_cfg=dict(dist_cfg=dict(backend="nccl", timeout=timeout)))
    command = [sys.executable, ROOT / "tools" / "train.py", config, "--launcher", "pytorch"]
    command += ["--work-dir", "run", "--cfg-options", "train_cfg.max_iters=1000", EVERY_2]
    shared = dict(WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    ranks = []
    for rank in range(WORLD):
        own = environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        log = open(f"rank{rank}.log", "w")  # noqa: SIM115 the process keeps it
        ranks.append(subprocess.Popen(command, env=own, stdout=log, stderr=log))
    try:
        while "iter_4.pth" not in checkpoints("run"):
            time.sleep(0.1)
            assert ranks[0].poll() is None, Path("rank0.log").read_text()[-3000:]
        assert ranks[0].wait(SECONDS) != 0
        printed = Path("rank0.log").read_text()
        assert ("by peer" if number == signal.SIGKILL else "imed out") in printed, printed[-3000:]
        if number == signal.SIGKILL:
            assert ranks[1].wait(SECONDS) == -signal.SIGKILL
        else:
            assert ranks[1].poll() is None  # stopped, for ever
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    check_resumed("run", last=6)


def metrics(work_dir):
    (file,) = Path(work_dir).glob("*/*.json")
    numbers = json.loads(file.read_text())
    return {k: v for k, v in numbers.items() if k not in ("data_time", "time")}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_test_as_one(task, project, tool):
    """Metrics and predictions of five images, of which one process gets an image more."""
    config, metric = TASKS[task]
    options = ["--cfg-options", "test_dataloader.batch_size=1", *READ_MAPS.get(task, [])]
    status, printed = tool("train", config, "--work-dir", "run", *options)
    assert status == 0, printed[-3000:]
    (file,) = Path("run").glob("*.pth")
    options.append("test_dataloader.dataset.indices=5")
    one = ["--work-dir", "one", "--out", "one.pkl", *options]
    status, printed = tool("test", config, file, *one)
    assert status == 0, printed[-3000:]
    two = ["--work-dir", "two", "--out", "two.pkl", *options]
    status, printed = launch("dist_test.sh", config, file, WORLD, *two)
    assert status == 0, printed[-3000:]
    assert "Distributed training: True" in only_log("two")
    assert metrics("one") == metrics("two")
    assert metrics("two")[metric] > 0
    predictions = [pickle.loads(Path(f"{n}.pkl").read_bytes()) for n in ("one", "two")]
    assert len(predictions[0]) == 5
    assert_same(*predictions)
