"""Parts of a schedule that never come about, and rates of accumulated batches."""

from types import SimpleNamespace

import pytest
import torch
from helpers import log_lines
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import PARAM_SCHEDULERS, RUNNERS, init_default_scope
from toy_training import toy_config

from mmdualtoken.errors import InputError, explain
from mmdualtoken.training.schedule import check_schedule, count_accumulation, odd_rates

EPOCHS = [dict(type="LinearLR", end=20), dict(type="CosineAnnealingLR", begin=20)]
ITERATIONS = [dict(type="PolyLR", by_epoch=False, begin=1500)]


ITER_LOOP = dict(type="IterBasedTrainLoop", max_iters=9)


@pytest.mark.parametrize(
    "parts, train_cfg, words",
    [
        (EPOCHS, dict(max_epochs=2), r"\[1\] \(CosineAnnealingLR\) has begin=20.*max_epochs=2"),
        (EPOCHS, dict(max_epochs=20), "begin=20"),
        (ITERATIONS[0], dict(max_iters=100), r"\[0\] \(PolyLR\) has begin=1500.*max_iters=100"),
        (EPOCHS, ITER_LOOP, r"\[0\] .LinearLR. counts epochs, but"),
        (EPOCHS, dict(by_epoch=False, max_iters=9), "but train_cfg counts iterations"),
        ([], dict(ITER_LOOP, max_epochs=5), "max_epochs=5 and max_iters=9, one of them from the"),
    ],
)
def test_too_late(parts, train_cfg, words):
    with pytest.raises(InputError, match=words):
        check_schedule(Config(dict(param_scheduler=parts, train_cfg=train_cfg)))


@pytest.mark.parametrize(
    "cfg",
    [
        dict(param_scheduler=EPOCHS, train_cfg=dict(max_epochs=21)),
        dict(param_scheduler=ITERATIONS, train_cfg=dict(max_epochs=2)),  # counted otherwise
        dict(param_scheduler=dict(type="ReduceOnPlateauLR"), train_cfg=dict(by_epoch=False)),
        dict(param_scheduler=None, train_cfg=None),
        dict(),
    ],
)
def test_in_time(cfg):
    check_schedule(Config(cfg))


SWITCH = dict(type="PipelineSwitchHook", switch_epoch=280, switch_pipeline=[])
RECIPE = dict(type="SwitchRecipeHook", schedule=[dict(action_epoch=1), dict(action_epoch=281)])
YOLOX = dict(type="YOLOXModeSwitchHook", num_last_epochs=15)
COCO = dict(type="CocoDataset", pipeline=[])
MOSAIC = dict(type="MultiImageMixDataset", dataset=COCO, pipeline=[])
REPEATED = dict(type="RepeatDataset", dataset=COCO, times=3)


def switching(hook, dataset, **train_cfg):
    loader = dict(dataset=dataset)
    return Config(dict(custom_hooks=[hook], train_dataloader=loader, train_cfg=train_cfg))


@pytest.mark.parametrize(
    "hook, dataset, train_cfg, words",
    [
        (SWITCH, REPEATED, dict(max_epochs=300), "which is a RepeatDataset and has none"),
        (SWITCH, COCO, dict(max_iters=300), "PipelineSwitchHook .* train_cfg counts iterations"),
        (RECIPE, COCO, dict(max_iters=300), "SwitchRecipeHook .* train_cfg counts iterations"),
        (YOLOX, MOSAIC, dict(max_iters=300), "train_cfg counts iterations"),
    ],
)
def test_switch_without_effect(hook, dataset, train_cfg, words):
    """mmdet's hook sets the attribute of a wrapper, whose data sets go on with theirs."""
    with pytest.raises(InputError, match=words):
        check_schedule(switching(hook, dataset, **train_cfg))


@pytest.mark.parametrize("hook", [SWITCH, RECIPE], ids=lambda hook: hook["type"])
@pytest.mark.parametrize("last", [280, 281])
def test_switch_after_the_end(hook, last):
    """The 281st epoch, which MMEngine counts as 280, is the first with the other pipeline."""
    with log_lines() as lines:
        check_schedule(switching(hook, COCO, max_epochs=last))
    assert any("its change never comes" in line for line in lines) == (last == 280)


def test_switch_that_comes():
    with log_lines() as lines:
        check_schedule(switching(SWITCH, MOSAIC, max_epochs=300))
        check_schedule(switching(YOLOX, MOSAIC, max_epochs=300))
        check_schedule(switching(RECIPE, REPEATED, max_epochs=300))  # mmpretrain's looks inside
    assert not lines


@pytest.mark.parametrize("runner_type", ["Runner", "FlexibleRunner"])
def test_accumulated_batches_are_counted(runner_type, tmp_path):
    """2 images, 4 times, are the 8 that the rate is meant for; 16 would be twice as many."""
    for base, expected in ((8, 1e-2), (16, 5e-3)):
        cfg = toy_config(length=3)
        cfg.update(work_dir=str(tmp_path), env_cfg={}, custom_hooks=[], param_scheduler=None)
        cfg.optim_wrapper.accumulative_counts = 4
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=base)
        cfg.update(runner_type=runner_type, experiment_name=f"{runner_type}{base}")
        runner = RUNNERS.build(cfg)
        count_accumulation(runner)
        runner.train()
        assert runner.optim_wrapper.param_groups[0]["lr"] == pytest.approx(expected)
        assert runner.cfg.auto_scale_lr.base_batch_size == base


LINEAR = dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=501)
COSINE = dict(type="CosineAnnealingLR", T_max=8, end=8)
RATES = {
    "warm-up longer than training": (LINEAR, 20, "only reaches 28% of lr", 0.28),
    "warm-up in time": (LINEAR, 100, "", 1.0),
    "steps that never come": (
        dict(type="MultiStepLR", milestones=[20, 30]),
        20,
        "never falls",
        1.0,
    ),
    "a step that comes": (dict(type="MultiStepLR", milestones=[19, 30]), 20, "", 0.1),
    "annealed too early": (COSINE, 20, "stays at its lowest from then on", 0.04),
    "annealed at the end": (COSINE, 8, "", 0.04),
    "cut off": (dict(type="PolyLR", power=1, end=41), 20, "does not fall to its lowest", 0.52),
    "without an end": (dict(type="CosineAnnealingLR", T_max=20), 20, "", 0.0),
}


@pytest.mark.parametrize("name", RATES)
def test_rates_that_nobody_means(name):
    """Epochs of 5 iterations; the rate at the end is what the warning says."""
    settings, epochs, words, rate = RATES[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = PARAM_SCHEDULERS.build(dict(settings, optimizer=optimizer))
    loop = SimpleNamespace(max_epochs=epochs, max_iters=5 * epochs)
    warnings = list(odd_rates([scheduler], loop))
    assert [words in warning for warning in warnings] == [True] * bool(words)
    for _ in range((epochs if scheduler.by_epoch else 5 * epochs) - 1):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=0.01)


def test_annealed_before_another_part():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    parts = [COSINE, dict(type="ConstantLR", begin=8, end=20)]
    schedulers = [PARAM_SCHEDULERS.build(dict(part, optimizer=optimizer)) for part in parts]
    assert not list(odd_rates(schedulers, SimpleNamespace(max_epochs=20, max_iters=100)))


def evaluated(scope, metric, **cfg):
    init_default_scope(scope)
    return Config(dict(default_scope=scope, val_evaluator=metric, **cfg))


COCO_METRIC = dict(type="CocoMetric", ann_file="x.json")
BEST = dict(default_hooks=dict(checkpoint=dict(save_best="bbox_mAP")))


EARLY_STOP = dict(custom_hooks=[dict(type="EarlyStoppingHook", monitor="mAP")])
PLATEAU = dict(param_scheduler=dict(type="ReduceOnPlateauLR"))


@pytest.mark.parametrize(
    "metric, settings, words",
    [
        (COCO_METRIC, BEST, "'bbox_mAP', but .* begin with coco/: write coco/bbox_mAP"),
        ([COCO_METRIC], BEST, "write coco/bbox_mAP"),
        (COCO_METRIC, EARLY_STOP, "monitor of EarlyStoppingHook is 'mAP'"),
        (COCO_METRIC, PLATEAU, "'loss'"),
        (dict(COCO_METRIC, prefix="val"), BEST, "write val/bbox_mAP"),
    ],
)
def test_results_of_another_name(metric, settings, words):
    with pytest.raises(InputError, match=words):
        check_schedule(evaluated("mmdet", metric, **settings))


def test_results_of_that_name():
    for best in ("coco/bbox_mAP", ["auto"], None):
        hooks = dict(checkpoint=dict(save_best=best))
        check_schedule(evaluated("mmdet", COCO_METRIC, default_hooks=hooks))
    check_schedule(evaluated("mmseg", dict(type="IoUMetric"), **BEST))  # without a prefix


def test_result_that_is_missing_in_the_end():
    """IoUMetric's names have no prefix: MMEngine stops at the first evaluation."""
    hook = CheckpointHook(save_best="IoU", rule="greater")
    with pytest.raises(KeyError) as caught:
        hook._save_best_checkpoint(SimpleNamespace(epoch=1, iter=5), dict(mIoU=1.0, aAcc=2.0))
    text = explain(caught.value)
    assert "save_best='IoU' of default_hooks.checkpoint is not among" in text
    assert "mIoU, aAcc" in text and "--resume" in text


def test_checkpoints_counted_in_epochs():
    """In a training by iterations MMEngine would write one, at the end."""
    loop = dict(type="IterBasedTrainLoop", max_iters=20)
    for hooks, number in (
        (dict(checkpoint=dict(type="CheckpointHook", interval=10)), 1),
        (dict(), 1),
        (dict(checkpoint=dict(type="CheckpointHook", interval=10, by_epoch=False)), 0),
        (dict(checkpoint=None), 0),
    ):
        with log_lines() as lines:
            check_schedule(Config(dict(default_hooks=hooks, train_cfg=loop)))
        assert sum("default_hooks.checkpoint counts epochs" in line for line in lines) == number
