"""The schedule of a training: checked before it, scaled to the batch, changed on resume."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim.scheduler.param_scheduler import INF
from mmengine.registry import METRICS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.optim import Optimizer

from mmdualtoken.config_files import type_name
from mmdualtoken.errors import InputError, log_warning

#: Schedulers that go by a result of the evaluation.
PLATEAU = ("ReduceOnPlateauLR", "ReduceOnPlateauMomentum", "ReduceOnPlateauParamScheduler")
# What a scheduler's state has besides its settings.
PROGRESS = {"last_step", "_global_step", "_last_value", "verbose"}


def check_schedule(cfg: Config) -> None:
    """Check that every part of the schedule comes about: of the learning rate, and of the data.

    Raises:
        InputError: train_cfg has max_epochs and max_iters; a part of param_scheduler begins after
            the end of training, for instance after a warm-up that is longer than the run; it counts
            epochs, and the training iterations; a hook's change of the pipeline has no effect; or
            a result of the evaluation by which a hook goes has another name.
    """
    schedulers = cfg.get("param_scheduler") or []
    loop = cfg.get("train_cfg") or {}
    if loop.get("max_epochs") and loop.get("max_iters"):
        raise InputError(
            f"train_cfg has max_epochs={loop['max_epochs']} and max_iters={loop['max_iters']}, one "
            "of them from the base config, which trains by epochs or by iterations. Set the one "
            "that it has (iterations are epochs x images / batch_size), and the ends of "
            "param_scheduler to match."
        )
    for i, part in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        key = "max_epochs" if part.get("by_epoch", True) else "max_iters"
        begin, last = part.get("begin", 0), loop.get(key)
        # A plateau's steps are evaluations.
        if key == "max_epochs" and _by_iterations(loop) and type_name(part) not in PLATEAU:
            raise InputError(
                f"param_scheduler[{i}] ({part.get('type')}) counts epochs, but train_cfg counts "
                "iterations: the rate would never change. Set by_epoch=False, with begin, end and "
                "milestones in iterations."
            )
        if last and begin >= last:
            raise InputError(
                f"param_scheduler[{i}] ({part.get('type')}) has begin={begin}, but training ends "
                f"at {key}={last}. Train longer, or give param_scheduler parts that begin before "
                f"{last} (a shorter warm-up and what follows it)"
            )
    for hook in cfg.get("custom_hooks") or ():
        if isinstance(hook, dict):
            _check_switch(cfg, hook)
    _check_results(cfg)
    stock = dict(interval=1)  # MMEngine's own, where the config has none
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint", stock) or {}
    if _by_iterations(loop) and checkpoint.get("by_epoch", True) and checkpoint.get("interval"):
        log_warning(
            "default_hooks.checkpoint counts epochs, but train_cfg counts iterations: the only "
            "checkpoint comes at the end. Set by_epoch=False, with interval in iterations."
        )


def _by_iterations(loop: Mapping) -> bool:
    named = type_name(loop) in ("IterBasedTrainLoop", "ResumableIterLoop")
    return named or "type" not in loop and loop.get("by_epoch") is False


class ScheduleHook(Hook):
    """Warn at the start of training of learning rates that nobody can have meant."""

    def before_train(self, runner: Runner) -> None:
        """Look at the schedulers as they are built, with the length of the data known."""
        if not isinstance(runner.param_schedulers, dict):
            for text in odd_rates(runner.param_schedulers or [], runner.train_loop):
                runner.logger.warning(text)


def odd_rates(schedulers: Sequence, loop: BaseLoop) -> Iterator[str]:
    """Yield a warning for each scheduler that does not fit the length of the training."""
    for scheduler in schedulers:
        name, begin, end = type(scheduler).__name__, scheduler.begin, scheduler.end
        unit = "epochs" if scheduler.by_epoch else "iterations"
        last = loop.max_epochs if scheduler.by_epoch else loop.max_iters
        text = f"param_scheduler: {name} %s, training ends after {last} {unit}: the rate %s. "
        if hasattr(scheduler, "start_factor") and end - 1 > last and scheduler.start_factor < 1:
            ends = scheduler.end_factor - scheduler.start_factor
            share = scheduler.start_factor + ends * (last - begin) / (end - begin - 1)
            rest = text % (f"ends at {end}", f"only reaches {share:.0%} of lr")
            yield f"{rest}Set a smaller end."
        elif hasattr(scheduler, "milestones") and scheduler.milestones:
            if min(scheduler.milestones) >= last:
                steps = f"has milestones {sorted(scheduler.milestones)}"
                yield f"{text % (steps, 'never falls')}Set earlier ones."
        elif hasattr(scheduler, "eta_min") and last + 1 < end < INF:
            rest = text % (f"ends at {end}", "does not fall to its lowest")
            yield f"{rest}Set end and T_max to the length of the training."
        elif hasattr(scheduler, "eta_min") and max(s.end for s in schedulers) == end < last:
            rest = text % (f"ends at {end}", "stays at its lowest from then on")
            yield f"{rest}Set end and T_max to the whole."


def _check_results(cfg: Config) -> None:
    """Check names of results that hooks and schedules go by, where all metrics have a prefix."""
    evaluators, schedulers, best = (
        [value] if isinstance(value, (dict, str)) else list(value or ())
        for value in (
            cfg.get("val_evaluator"),
            cfg.get("param_scheduler"),
            ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best"),
        )
    )
    prefixes = []
    with METRICS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        for evaluator in evaluators:
            kind = evaluator.get("type")
            kind = registry.get(kind) if isinstance(kind, str) else kind
            prefixes.append(evaluator.get("prefix") or getattr(kind, "default_prefix", None))
    named = {"default_hooks.checkpoint.save_best": [key for key in best if key != "auto"]}
    for part in (*schedulers, *(cfg.get("custom_hooks") or ())):
        if isinstance(part, dict) and type_name(part) in ("EarlyStoppingHook", *PLATEAU):
            named[f"monitor of {type_name(part)}"] = [part.get("monitor", "loss")]
    for where, keys in named.items():
        for key in keys if prefixes and all(prefixes) else ():
            if not key.startswith(tuple(f"{prefix}/" for prefix in prefixes)):
                raise InputError(
                    f"{where} is {key!r}, but names of val_evaluator's results begin with "
                    f"{' or '.join(f'{p}/' for p in prefixes)}: write {prefixes[0]}/{key}, if it "
                    "is that, or see the names in the log of an evaluation."
                )


def _check_switch(cfg: Config, hook: dict) -> None:
    """Check a hook that changes the pipeline at an epoch; its own class reports no failure."""
    name, length = type_name(hook), (cfg.get("train_cfg") or {}).get("max_epochs")
    if name not in ("PipelineSwitchHook", "SwitchRecipeHook", "YOLOXModeSwitchHook"):
        return
    recipes = hook.get("schedule") or [dict(action_epoch=hook.get("switch_epoch", 1) + 1)]
    last = max(recipe.get("action_epoch", 1) for recipe in recipes) - 1
    dataset = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    inside = "dataset" in dataset or "datasets" in dataset
    if name == "PipelineSwitchHook" and inside and "pipeline" not in dataset:
        raise InputError(
            f"PipelineSwitchHook sets the pipeline of train_dataloader.dataset, which is a "
            f"{type_name(dataset)} and has none: the data sets in it would keep theirs. Put "
            "the data set there without the wrapper, or take the hook out of custom_hooks."
        )
    if last > 0 and not length:
        raise InputError(
            f"{name} changes the training at an epoch, but train_cfg counts iterations, which are "
            "one epoch to it. Train by epochs (type='EpochBasedTrainLoop', max_epochs=...), or "
            "take the hook out of custom_hooks."
        )
    if last > 0 and last >= length:
        log_warning(
            f"{name} is set to epoch {last}, but training ends at max_epochs={length}: its "
            "change never comes. Set its epoch below max_epochs to have it."
        )


def count_accumulation(runner: Runner) -> None:
    """Let auto_scale_lr count the batches whose gradients are accumulated to one update.

    MMEngine counts processes × batch size alone. The config stays as it is, so that its copy in
    the work dir can be used again.
    """
    holder, name = runner, "auto_scale_lr"
    if not isinstance(runner, Runner):  # FlexibleRunner leaves it to its strategy
        holder, name = runner.strategy, "_auto_scale_lr"
    settings = getattr(holder, name) or {}
    count = (runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
    if not settings.get("enable") or count == 1:
        return
    base = settings["base_batch_size"]
    setattr(holder, name, {**settings, "base_batch_size": base / count})
    print_log(
        f"auto_scale_lr: accumulative_counts={count} batches make one update, so that "
        f"base_batch_size={base} is {base / count:g} for one batch.",
        logger="current",
    )


class Settings(NamedTuple):
    """The optimizer's groups without their tensors, and the states of the schedulers."""

    groups: list[dict]
    schedulers: list[dict]


def current_settings(runner: Runner) -> Settings | None:
    """The settings that a runner has built; None where there are several optimizers."""
    optimizer = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
    schedulers = runner.param_schedulers or []
    if not isinstance(optimizer, Optimizer) or isinstance(schedulers, dict):
        return None
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return Settings(groups, [scheduler.state_dict() for scheduler in schedulers])


def apply_changed_settings(runner: Runner, own: Settings, old: Sequence[dict]) -> None:
    """Let the config's optimizer settings and schedule hold in a resumed run; warn of a change.

    MMEngine takes both from the checkpoint. A longer run would stay at the rate at which the old
    schedule ended. The new schedule continues where it would be, had it held from the start;
    one that depends on evaluations stays the checkpoint's.

    Args:
        own: `current_settings` before the checkpoint was loaded.
        old: states of the schedulers in the checkpoint.
    """
    optimizer, schedulers = runner.optim_wrapper.optimizer, runner.param_schedulers or []
    before = optimizer.param_groups[0].get("lr")
    names = [type(scheduler).__name__ for scheduler in schedulers]
    changed = _changed_schedules(names, own.schedulers, old)
    fixed = any(getattr(scheduler, "need_val_args", False) for scheduler in schedulers)
    others = _apply_groups(optimizer, own, {s.get("param_name") for s in own.schedulers})
    if changed and not fixed:
        _start_again(runner, own)
    if not changed and not others:
        return
    text = "The config's settings hold, its schedule counted from the run's start"
    if changed and fixed:
        text = "ReduceOnPlateau depends on the run's evaluations: the checkpoint's schedule stays"
    after = optimizer.param_groups[0].get("lr")
    log_warning(
        "Resume: the config's schedule and optimizer are not the checkpoint's: "
        f"{'; '.join(changed + others)}. {text}: the learning rate was {before:g}, now it is "
        f"{after:g}. To keep the old ones, resume with the config and options the run began with."
    )


def _changed_schedules(names: Sequence[str], own: Sequence[dict], old: Sequence[dict]) -> list[str]:
    found = []
    for i, (new, was) in enumerate(zip_longest(own, old)):
        if new is None or was is None:
            found.append(f"param_scheduler[{i}] is {'gone' if new is None else 'new'}")
            continue
        keys = [k for k in {**new, **was} if k not in PROGRESS and new.get(k) != was.get(k)]
        if keys:
            parts = [f"{k} {_brief(was.get(k))} -> {_brief(new.get(k))}" for k in keys]
            found.append(f"param_scheduler[{i}] ({names[i]}) {', '.join(parts)}")
    return found


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        value = sorted(value)
    several = isinstance(value, list) and len(set(map(str, value))) > 3
    return f"[{value[0]}, ...]" if several else str(value)


def _apply_groups(optimizer: Optimizer, own: Settings, scheduled: set[str]) -> list[str]:
    """Set what no scheduler changes, such as weight_decay; name the settings that were others."""
    found = {}
    for new, group in zip(own.groups, optimizer.param_groups, strict=False):
        for key, value in new.items():
            number = isinstance(value, (int, float, tuple)) and not isinstance(value, bool)
            fixed = key not in scheduled and not key.startswith(("initial_", "max_", "min_"))
            if not (number and fixed and key in group):
                continue
            was = tuple(group[key]) if isinstance(value, tuple) else group[key]
            if was != value:
                found.setdefault(key, f"{key} {was} -> {value}")
                group[key] = value
    return list(found.values())


def _start_again(runner: Runner, own: Settings) -> None:
    """Build the schedulers again from the config, and step them to the position of the loop."""
    optimizer, config = runner.optim_wrapper.optimizer, runner.cfg.get("param_scheduler")
    for new, group in zip(own.groups, optimizer.param_groups, strict=False):
        for key, value in new.items():
            if key.startswith("initial_"):
                group[key] = group[key.removeprefix("initial_")] = value
    if not config:
        return
    if isinstance(runner, Runner):
        schedulers = runner.build_param_scheduler(copy.deepcopy(config))
    else:
        build = runner.strategy.build_param_scheduler
        schedulers = build(copy.deepcopy(config), runner.optim_wrapper)
        runner.strategy.param_schedulers = schedulers
    runner.param_schedulers = schedulers
    loop = runner.train_loop
    by_epoch, length = isinstance(loop, EpochBasedTrainLoop), len(loop.dataloader)
    # By epochs, which a run with another batch size has as many of.
    done = loop.epoch * length + getattr(loop, "first_batch", 0) if by_epoch else loop.iter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step() before optimizer.step()"
        for i in range(1, done + 1):
            for scheduler in sorted(schedulers, key=lambda s: s.by_epoch):  # an epoch's end is last
                if not scheduler.by_epoch or (by_epoch and i % length == 0):
                    scheduler.step()
