"""A run that was killed and resumed ends with the weights of one that was not, bit for bit."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import training_runs
from mmengine.config import Config
from mmengine.registry import DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from toy_training import ToyData, names, run, stop, toy_config
from training_runs import assert_same, last, random_config, state_of, train, write_scenes

from mmdualtoken.errors import InputError
from mmdualtoken.training.reliability import add_reliability
from mmdualtoken.training.workers import end_workers
from mmdualtoken.weights.checkpoints import load_file

# Iterations of the whole run, and where it is killed. Its last checkpoint is then of iteration 4,
# or of epoch 2 with 3 batches per epoch; the segmentor's data ends after 5 batches, begins anew.
WHOLE, KILLED = 9, 7


pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Ten images of each task."""
    training_runs.start_server()
    root = tmp_path_factory.mktemp("resume")
    write_scenes(root, 10)
    return root


def schedule(cfg, by_epoch):
    """Nine iterations with a checkpoint after every fourth one, or three epochs of three."""
    cfg.randomness = dict(seed=0)
    if cfg.train_cfg.get("by_epoch"):
        cfg.train_cfg.update(max_epochs=WHOLE // 3, val_interval=1)
    else:
        cfg.train_cfg.update(max_iters=WHOLE, val_interval=4)
    interval = 1 if by_epoch else 4
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=interval, by_epoch=by_epoch)
    return cfg


SLOW = pytest.mark.slow


@pytest.mark.processes
@pytest.mark.parametrize(
    "task, checkpoint, workers",
    [
        ("classification", "iter_4.pth", (2,)),
        pytest.param("classification", "iter_4.pth", (0,), marks=SLOW),
        pytest.param("classification", "epoch_2.pth", (0, 2), marks=SLOW),
        pytest.param("detection", "iter_4.pth", (0, 2), marks=SLOW),
        pytest.param("segmentation", "iter_4.pth", (0, 2), marks=SLOW),
    ],
)
def test_killed_and_resumed(task, checkpoint, workers, scenes, here):
    """Neither the number of workers nor their history decides anything."""
    (here / "data").symlink_to(scenes / "data")
    by_epoch = checkpoint.startswith("epoch")
    assert train(here, schedule(random_config(task), by_epoch), "whole")[0] == 0
    expected = state_of(last("whole"))
    assert len(expected["losses"]) == WHOLE
    for count in workers:
        name = f"killed{count}"
        cfg = schedule(random_config(task, count), by_epoch)
        cfg.custom_hooks.append(dict(type="SignalAt", done=KILLED))
        assert train(here, cfg, name)[0] == -9
        assert last(name).endswith(checkpoint)
        cfg.custom_hooks.pop()
        status, output = train(here, cfg, name, "--resume")
        assert status == 0
        assert "Resume: data and random numbers continue exactly" in output
        within = task == "classification" and not by_epoch
        assert ("in epoch 2 after batch 1" in output) == within
        assert_same(state_of(last(name)), expected)


@pytest.mark.slow
@pytest.mark.processes
def test_stock_hooks_resume_to_other_weights(scenes, here):
    """So the test above compares what does depend on the random numbers that were lost."""
    (here / "data").symlink_to(scenes / "data")
    cfg = schedule(random_config("classification"), True)
    assert train(here, cfg, "whole", tool="stock")[0] == 0
    cfg.custom_hooks.append(dict(type="SignalAt", done=KILLED))
    assert train(here, cfg, "killed", tool="stock")[0] == -9
    cfg.custom_hooks.pop()
    assert train(here, cfg, "killed", "resume", tool="stock")[0] == 0
    whole, resumed = (load_file(last(name))["state_dict"] for name in ("whole", "killed"))
    weight = "backbone.stages.0.blocks.0.ffn.fc1.weight"
    assert not torch.equal(whole[weight], resumed[weight])


@pytest.mark.parametrize("by_epoch, workers", [(False, 2), (True, 0)])
def test_all_but_the_random_numbers_is_as_in_mmengine(by_epoch, workers):
    """Without them, the weights of a run are those of its stock hooks and loops, bit for bit."""

    def config():
        cfg = toy_config(length=3 if by_epoch else 13, workers=workers, by_epoch=by_epoch)
        cfg.model.dropout = 0
        cfg.train_dataloader.dataset.fixed = cfg.val_dataloader.dataset.fixed = True
        cfg.experiment_name = f"stock{by_epoch}{workers}"
        return cfg

    cfg = config()
    cfg.work_dir = "stock"
    stock_runner = Runner.from_cfg(cfg)
    stock_runner.train()
    # It leaves its workers to the garbage collector, for which they can take 5 s each.
    end_workers(stock_runner.val_dataloader)
    iterator = getattr(stock_runner.train_loop, "dataloader_iterator", None)
    end_workers(stock_runner.train_dataloader, getattr(iterator, "_iterator", None))
    run(config(), "ours")
    ours, stock = (load_file(last(name)) for name in ("ours", "stock"))
    assert ours.pop("exact_resume")["samples"] == 10
    for key in ("state_dict", "ema_state_dict", "optimizer", "param_schedulers"):
        assert_same(ours[key], stock[key])
    assert set(ours) == set(stock)
    assert names("ours") == names("stock")


# Where it cannot be exact, it says so.


@pytest.fixture
def interrupted():
    """The config of a toy run that was stopped after the second batch of its second epoch."""
    stop(toy_config(length=2, by_epoch=True), "run", done=7)
    cfg = toy_config(length=2, by_epoch=True)
    cfg.log_level = "INFO"
    return cfg


@LOOPS.register_module()
class OwnLoop(EpochBasedTrainLoop):
    """A loop that we know nothing of."""


class Mosaic:
    """Keeps images, as mmdet's CachedMosaic does."""

    results_cache = ()


@DATASETS.register_module()
class CachingData(ToyData):
    """Its transforms keep images."""

    pipeline = SimpleNamespace(transforms=[Mosaic()])


REPEATED = "epoch 2 starts again: its first 2 batches are repeated"
BATCH_SIZE = f"not exact, as the run has changed: batch_size 2 -> 5; {REPEATED}."
KEPT = "in epoch 2 after batch 2, but for the images that Mosaic had kept, if still used."


@pytest.mark.parametrize(
    "changes, said, iterations",
    [
        ({"train_dataloader.batch_size": 5}, [BATCH_SIZE], 7 + 2),
        (
            {"train_cfg": dict(type="OwnLoop", _delete_=True, max_epochs=2)},
            ["will differ after a resume: OwnLoop and its loader cannot start at", REPEATED],
            7 + 5,
        ),
        ({"train_dataloader.dataset.type": "CachingData"}, [KEPT], 10),
    ],
    ids=["batch size", "a loop of the user's own", "images that transforms keep"],
)
def test_other_config(changes, said, iterations, interrupted, capfd):
    """Nothing is left out: an epoch that cannot be continued starts again."""
    interrupted.merge_from_dict(changes)
    run(interrupted, "run", resume=True)
    output = capfd.readouterr().out
    assert all(text in output for text in said)
    assert len(state_of("run/epoch_2.pth")["losses"]) == iterations


@pytest.mark.parametrize(
    "missing, said",
    [
        ("exact_resume", "not exact, as the checkpoint was written without ExactResumeHook."),
        ("optimizer", "less.pth holds no optimizer"),
        ("meta", "^--resume less.pth: .* no meta.*--load-from"),
        ("message_hub", "^--resume less.pth: .* no message_hub.*--load-from"),
    ],
)
def test_checkpoint_that_lacks(missing, said, interrupted, capfd):
    """As one of the stock hooks, and as a file of weights that somebody published."""
    checkpoint = load_file("run/interrupted.pth")
    checkpoint["meta"].update(epoch=1, iter=5)
    del checkpoint[missing]
    torch.save(checkpoint, "less.pth")
    interrupted.load_from = "less.pth"
    if "load-from" in said:
        with pytest.raises(InputError, match=said):
            run(interrupted, "other", resume=True)
        assert not list(Path("other").glob("*.pth"))
    else:
        run(interrupted, "other", resume=True)
        assert said in capfd.readouterr().out


def test_resume_between_two_updates(capfd):
    """Gradients of the fourth and fifth iteration are in no checkpoint."""
    cfg = scheduled(2)
    cfg.optim_wrapper.accumulative_counts = 3
    run(cfg.copy(), "whole")
    cfg.load_from = "whole/epoch_1.pth"
    run(cfg, "run", resume=True)
    words = "not exact, as gradients of 2 iterations, not yet applied, are not kept"
    assert words in capfd.readouterr().out


# What the config changes in a run that is resumed.


def scheduled(length, by_epoch=True, **optimizer):
    """A warm-up of 7 iterations and a cosine over the run, by iterations and by epochs."""
    cfg = toy_config(length=length, by_epoch=by_epoch)
    cfg.train_cfg.val_interval = 100
    cfg.optim_wrapper.optimizer.update(optimizer)
    cosine = dict(type="CosineAnnealingLR", T_max=length, end=length, by_epoch=by_epoch)
    warm_up = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=7)
    cfg.param_scheduler = [cosine, warm_up]
    return cfg


def rates_of(file):
    return list(load_file(file)["message_hub"]["log_scalars"]["train/lr"].data[0])


@pytest.mark.parametrize(
    "by_epoch, first, then, done", [(True, 2, 4, 10), (True, 4, 3, 12), (False, 6, 15, 6)]
)
def test_changed_schedule_holds(by_epoch, first, then, done, capfd):
    """From the resume on, rates and schedulers are those of a run that had it all along."""
    if first > then:  # a shorter one, taken up in the middle of an epoch
        stop(scheduled(first, by_epoch), "run", done=done)
    else:
        run(scheduled(first, by_epoch), "run")
    capfd.readouterr()
    run(scheduled(then, by_epoch), "run", resume=True)
    output = capfd.readouterr().out
    words = f"param_scheduler[0] (CosineAnnealingLR) T_max {first} -> {then}, end {first} -> {then}"
    assert f"are not the checkpoint's: {words}. The config's settings hold" in output
    run(scheduled(then, by_epoch), "whole")
    resumed, whole = last("run"), last("whole")
    assert rates_of(resumed)[done:] == rates_of(whole)[done:]
    assert rates_of(resumed)[1:done] != rates_of(whole)[1:done]
    assert_same(load_file(resumed)["param_schedulers"], load_file(whole)["param_schedulers"])


def test_changed_schedule_of_other_batches():
    """An epoch of 5 batches is as much of the schedule as one of 2; the second restarts."""

    def config(batch_size):
        cfg = scheduled(4)
        cfg.train_dataloader.batch_size = batch_size
        cfg.param_scheduler = [{**cfg.param_scheduler[0], "convert_to_iter_based": True}]
        return cfg

    stop(config(2), "run", done=7)
    run(config(5), "run", resume=True)
    run(config(5), "whole")
    assert rates_of(last("run"))[7:] == rates_of(last("whole"))[2:]


def test_changed_optimizer_holds(capfd):
    def config(length, **optimizer):
        cfg = scheduled(length, **optimizer)
        cfg.param_scheduler = None
        return cfg

    run(config(1), "run")
    run(config(2, lr=0.02, weight_decay=0.5, betas=(0.8, 0.9)), "run", resume=True)
    output = capfd.readouterr().out
    assert "lr 0.01 -> 0.02; betas (0.9, 0.999) -> (0.8, 0.9); weight_decay 0.01 -> 0.5" in output
    (group,) = load_file(last("run"))["optimizer"]["param_groups"]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.02, 0.5, (0.8, 0.9))


def test_schedule_that_depends_on_evaluations_stays(capfd):
    def config(length, factor):
        cfg = scheduled(length)
        kind = dict(type="ReduceOnPlateauLR", monitor="error", rule="greater", patience=0)
        cfg.param_scheduler = [dict(kind, factor=factor)]
        cfg.train_cfg.val_interval = 1
        return cfg

    run(config(3, 0.5), "run")
    rate = rates_of(last("run"))[-1]
    run(config(4, 0.1), "run", resume=True)
    output = capfd.readouterr().out
    assert "factor 0.5 -> 0.1" in output and "the checkpoint's schedule stays" in output
    assert rates_of(last("run"))[-1] in (rate, rate / 2)


def test_nothing_left_to_do(capfd):
    run(scheduled(2), "run")
    before = load_file(last("run"))
    capfd.readouterr()
    run(scheduled(2), "run", resume=True)
    output = capfd.readouterr().out
    assert "the run is finished, 2 of max_epochs=2: nothing is left to do" in output
    assert "are not the checkpoint's" not in output
    assert_same(load_file(last("run"))["state_dict"], before["state_dict"])


# Which configs get it.


def test_stock_parts_are_replaced():
    hook = dict(type="CheckpointHook", interval=3, max_keep_ckpts=2)
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=5), default_hooks=dict(own=hook)))
    add_reliability(cfg)
    assert cfg.train_cfg == dict(type="ResumableEpochLoop", max_epochs=5)
    assert cfg.default_hooks.own == {**hook, "type": "AtomicCheckpointHook"}
    # For the toolboxes' own tools, given the config that a run writes to its work dir.
    assert cfg.custom_imports == dict(imports=["mmdualtoken"], allow_failed_imports=False)
    assert cfg.default_hooks.checkpoint == dict(type="AtomicCheckpointHook", interval=1)
    assert [h.type for h in cfg.custom_hooks] == ["ExactResumeHook", "NanLossHook", "InterruptHook"]
    before = cfg.pretty_text
    add_reliability(cfg)
    assert cfg.pretty_text == before
    cfg = Config(dict(train_cfg=dict(type="mmengine.IterBasedTrainLoop", max_iters=5)))
    add_reliability(cfg)
    assert cfg.train_cfg == dict(type="ResumableIterLoop", max_iters=5)


def test_parts_of_the_users_own_stay():
    own = dict(
        train_cfg=dict(type="OwnLoop", max_epochs=5),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type="InterruptHook", signals=("SIGUSR1",)), dict(type="OwnHook")],
    )
    cfg = Config(own)
    add_reliability(cfg)
    assert cfg.train_cfg == own["train_cfg"] and cfg.default_hooks == own["default_hooks"]
    assert cfg.custom_hooks[:2] == own["custom_hooks"]
    assert [h.type for h in cfg.custom_hooks[2:]] == ["ExactResumeHook", "NanLossHook"]
