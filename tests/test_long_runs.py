"""Memory and file handles of the training process stay as they are over thousands of iterations."""

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
    """Writes iteration, megabytes of resident memory and number of open files to a file."""

    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Every 100 iterations."""
        if (runner.iter + 1) % 100 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            with open("footprint.txt", "a") as file:
                file.write(f"{runner.iter + 1} {megabytes} {len(os.listdir('/proc/self/fd'))}\n")


def footprints(folder):
    lines = (folder / "footprint.txt").read_text().splitlines()
    return {int(i): (float(m), int(n)) for i, m, n in map(str.split, lines)}


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
    memory = [found[i][0] for i in (1100, 1900)]
    print(f"\n{task}: {memory[0]:.1f} MB after 1100 iterations, {memory[1]:.1f} MB after 1900")
    assert memory[1] - memory[0] < 2  # 2.6 kB per iteration; a batch of images is ten times that
    # Batches that wait in shared memory are open files, some at any time.
    files = {half: max(n for i, (_, n) in found.items() if (i > 1000) == half) for half in (0, 1)}
    assert files[1] <= files[0] + 4
