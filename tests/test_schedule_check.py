"""Parts of a schedule that never come about, and rates of accumulated batches."""

import pytest
from helpers import log_lines
from mmengine.config import Config
from mmengine.registry import RUNNERS
from toy_training import toy_config

from mmdualtoken.errors import InputError
from mmdualtoken.training.schedule import check_schedule, count_accumulation

EPOCHS = [dict(type="LinearLR", end=20), dict(type="CosineAnnealingLR", begin=20)]
ITERATIONS = [dict(type="PolyLR", by_epoch=False, begin=1500)]


@pytest.mark.parametrize(
    "parts, train_cfg, words",
    [
        (EPOCHS, dict(max_epochs=2), r"\[1\] \(CosineAnnealingLR\) has begin=20.*max_epochs=2"),
        (EPOCHS, dict(max_epochs=20), "begin=20"),
        (ITERATIONS[0], dict(max_iters=100), r"\[0\] \(PolyLR\) has begin=1500.*max_iters=100"),
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
