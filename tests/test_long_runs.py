"""Memory and file handles of training, workers too, stay the same over thousands of iterations."""

import footprint
import pytest
import training_runs
from toy_training import toy_config
from training_runs import NARROW, random_config, train, write_scenes

pytestmark = pytest.mark.processes
ITERATIONS = 2000
#: Part of a run by whose end all is full that is filled once: caches, the first checkpoint and
#: validation.
WARM_UP = 0.3
#: Growth per iteration, or image in a worker. A tensor of a single number that is kept takes some
#: 500 bytes and 2 of Python's blocks; without a leak their number rises and falls by hundreds.
LIMITS = dict(allocated=150, blocks=1.5, files=0.01)


@pytest.fixture(scope="module", autouse=True)
def server():
    training_runs.start_server()


def watched(cfg, interval=50):
    """The config with its process measured, and its workers if it loads images."""
    cfg.custom_imports.imports.append("footprint")
    cfg.custom_hooks.append(dict(type="FootprintHook", interval=interval))
    return cfg


def watch_workers(cfg, **leak):
    """Measure them; a transform that stands before the one that packs."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline.insert(len(pipeline) - 1, dict(type="FootprintTransform", **leak))


def growth(file):
    """What grows by more than its limit, and by how much."""
    found = footprint.read(file)
    first = WARM_UP * found["count"][-1]
    slopes = {name: footprint.slope(found, name, first) for name in LIMITS}
    print(f"\n{file.name}: " + ", ".join(f"{k} {v:+.4g}" for k, v in slopes.items()))
    return {name: slopes[name] for name in LIMITS if slopes[name] > LIMITS[name]}


@pytest.mark.slow
@pytest.mark.parametrize("task", NARROW)
def test_footprint(task, tmp_path):
    write_scenes(tmp_path, 10)
    cfg = watched(random_config(task, workers=2))
    watch_workers(cfg)
    if task == "classification":
        cfg.train_cfg = dict(by_epoch=True, max_epochs=ITERATIONS // 3 + 1, val_interval=150)
        cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=150)
    else:
        cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=10_000)
        cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=500)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=500)
    status, output = train(tmp_path, cfg, "run")
    assert status == 0, output
    assert growth(tmp_path / "process.txt") == {}
    workers = list(tmp_path.glob("worker-*.txt"))
    assert len(workers) == 2
    for worker in workers:
        assert growth(worker) == {}


PLANTED = {"tensor": "allocated", "tuple": "blocks", "file": "files"}


@pytest.mark.parametrize("kind", [None, *PLANTED])
def test_a_leak_of_each_iteration_is_found(kind, tmp_path):
    """However small: what the test above measures it by, with a model that trains quickly."""
    cfg = watched(toy_config(length=600), interval=10)
    cfg.default_hooks.checkpoint.interval = 200
    cfg.train_cfg.val_interval = 1000
    if kind is not None:
        cfg.custom_hooks.append(dict(type="LeakHook", kind=kind))
    status, output = train(tmp_path, cfg, "run")
    assert status == 0, output
    found = growth(tmp_path / "process.txt")
    if kind is None:
        assert found == {}
    else:
        assert PLANTED[kind] in found


@pytest.mark.slow
def test_a_leak_of_a_worker_is_found(tmp_path):
    write_scenes(tmp_path, 10)
    cfg = random_config("segmentation", workers=1)
    cfg.custom_imports.imports.append("footprint")
    watch_workers(cfg, interval=10, leak=500)
    cfg.train_cfg.update(max_iters=200, val_interval=10_000)
    status, output = train(tmp_path, cfg, "run")
    assert status == 0, output
    (worker,) = tmp_path.glob("worker-*.txt")
    assert 500 < growth(worker)["allocated"] < 700
