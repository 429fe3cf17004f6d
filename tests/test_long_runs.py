"""Memory and file handles of training, workers too, stay the same over thousands of iterations."""

import multiprocessing
import os
from pathlib import Path

import pytest
import training_runs
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from training_runs import NARROW, random_config, train, write_scenes

ITERATIONS = 2000


@HOOKS.register_module()
class Footprint(Hook):
    """Writes to a file: iteration, resident memory of the process and of its workers in megabytes,
    number of open files.
    """

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Every 100 iterations."""
        if (runner.iter + 1) % 100 == 0:
            workers = [worker.pid for worker in multiprocessing.active_children()]
            assert len(workers) == 2
            memory = resident("self"), sum(map(resident, workers))
            with open("footprint.txt", "a") as file:
                file.write(f"{runner.iter + 1} {memory[0]} {memory[1]} {count_files()}\n")


def resident(process):
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def count_files():
    return len(os.listdir("/proc/self/fd"))


def footprints(folder):
    lines = (folder / "footprint.txt").read_text().splitlines()
    return {int(i): (float(m), float(w), int(n)) for i, m, w, n in map(str.split, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("task", NARROW)
def test_footprint(task, tmp_path):
    """After the first half, which fills caches and writes a checkpoint, nothing is added."""
    training_runs.start_server()
    write_scenes(tmp_path, 10)
    cfg = random_config(task, workers=2)
    cfg.custom_imports.imports.append("test_long_runs")
    cfg.custom_hooks.append(dict(type="Footprint"))
    if task == "classification":
        cfg.train_cfg = dict(by_epoch=True, max_epochs=ITERATIONS // 3 + 1, val_interval=1000)
        cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1000)
    else:
        cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=10_000)
        cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=1000)
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=500)
    status, output = train(tmp_path, cfg, "run")
    assert status == 0, output
    found = footprints(tmp_path)
    assert list(found) == list(range(100, ITERATIONS + 1, 100))
    for who, column in (("process", 0), ("workers", 1)):
        before, after = (found[i][column] for i in (1100, 1900))
        print(f"\n{task}, {who}: {before:.1f} MB after 1100 iterations, {after:.1f} MB after 1900")
        # 2.6 kB per iteration; a batch of images is ten times that.
        assert after - before < 2, found
    # Batches that wait in shared memory are open files, some at any time.
    files = {half: max(v[2] for i, v in found.items() if (i > 1000) == half) for half in (0, 1)}
    assert files[1] <= files[0] + 4
