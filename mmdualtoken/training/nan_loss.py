"""A NaN loss ends training with what is known of its cause, before it reaches a checkpoint."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmdualtoken.errors import InputError
from mmdualtoken.training.distributed import max_over_processes
from mmdualtoken.training.interrupt import describe_last_checkpoint

ACTIONS = ("stop", "warn", "ignore")
#: What its error begins with, by which other programs know it from other ends.
STOPPED = "Training stopped:"
FILES = 8  # named in the error; the log names all
REMEDIES = (
    "A resumed run meets it again unless something changes: a lower learning rate or a longer "
    "warm-up (param_scheduler), clipped gradients (optim_wrapper.clip_grad), no mixed precision, "
    "or other data: look at these images, and run tools/check_data.py. "
    "--on-nan-loss warn continues regardless."
)


def image_files(batch: Any) -> Iterator[str]:
    """File names in a batch as a loader gives it: `img_path` of data samples and dicts."""
    found = (
        batch.get("img_path") if isinstance(batch, Mapping) else getattr(batch, "img_path", None)
    )
    if found is not None:
        yield from [found] if isinstance(found, str) else map(str, found)
        return
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        for item in batch:
            yield from image_files(item)


class GradientNorms:
    """Norms of the gradients at an optimizer's last two steps, left on the device.

    They are those that the optimizer sees: unscaled, clipped. A step that loss scaling skips is
    none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]):
        self.names = names
        self.last: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}
        self.handle = optimizer.register_step_pre_hook(self._measure)

    @torch.no_grad()
    def _measure(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        params = [p for p in params if p.grad is not None and not p.grad.is_sparse]
        norms = torch._foreach_norm([p.grad for p in params]) if params else []
        names = (self.names.get(p, "?") for p in params)
        self.before, self.last = self.last, dict(zip(names, norms, strict=True))


def _describe_norms(norms: Mapping[str, Tensor], top: int) -> str:
    numbers = {name: float(norm) for name, norm in norms.items()}
    finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    if not finite:
        return f"not finite in any of {len(numbers)} parameters"
    largest = sorted(finite, key=finite.get, reverse=True)[:top]
    text = ", ".join(f"{name} {finite[name]:.3g}" for name in largest)
    bad = [k for k in numbers if k not in finite]
    if bad:
        text += f"; not finite in {len(bad)} of {len(numbers)}: {', '.join(bad[:top])}"
    return text


def broken_weights(runner: Runner, checkpoint: Mapping) -> list[str]:
    """Names of a checkpoint's tensors that hold NaN, and of parameters that hold infinity."""
    named = [
        (name, value)
        for key in ("state_dict", "ema_state_dict")
        for name, value in checkpoint.get(key, {}).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    # A buffer may hold infinities: of an attention mask, for example.
    broken = [name for name, value in named if bool(value.isnan().any())]
    for name, value in runner.model.named_parameters():
        if not bool(value.isfinite().all()):
            broken.append(name)
    return list(dict.fromkeys(broken))


@HOOKS.register_module(force=True)
class NanLossHook(Hook):
    """Stop when a loss is NaN, and never let weights that are not finite into a checkpoint.

    Stopping says the iteration, the losses, the files of the batch, and the largest gradients of
    the last two updates. Checkpoints stay as they were: the last good one, `last_checkpoint` too.

    A NaN loss is an error with loss scaling as well; gradients that are infinite, and the steps
    that are skipped for them, are not. An infinite loss is only logged.

    The norms stay on the device until they are needed. Weights are checked when they are saved.
    Several processes agree after each iteration.

    Args:
        action: 'stop'; 'warn': a NaN loss is logged, the first `limit` times, and training
            continues, but saving weights that are not finite still stops it; 'ignore': nothing is
            checked.
        top: how many gradients are named.
        limit: how many warnings are logged.

    Raises:
        ValueError: the action is unknown.
        InputError: in training; see above.
    """

    priority = "LOW"  # after RuntimeInfoHook and EMAHook, before CheckpointHook and InterruptHook

    def __init__(self, action: str = "stop", top: int = 5, limit: int = 10):
        if action not in ACTIONS:
            raise ValueError(f"action: received {action!r}; allowed: {', '.join(ACTIONS)}")
        self.action = action
        self.top = top
        self.limit = limit
        self._warned = 0
        self._norms: GradientNorms | None = None
        self._batch: Any = None

    def before_train(self, runner: Runner) -> None:
        """Watch the gradients."""
        if self.action == "ignore":
            return
        names = {p: name for name, p in runner.model.named_parameters()}
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # none where there are several
        if isinstance(optimizer, torch.optim.Optimizer):
            self._norms = GradientNorms(optimizer, names)

    def after_train(self, runner: Runner) -> None:
        """Let go of the optimizer and the last batch."""
        if self._norms is not None:
            self._norms.handle.remove()
        self._norms, self._batch = None, None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping | None = None,
    ) -> None:
        """Check the losses."""
        if self.action == "ignore":
            return
        self._batch = data_batch
        losses = {
            name: float(value.detach() if isinstance(value, Tensor) else value)
            for name, value in (outputs or {}).items()
            if "loss" in name and isinstance(value, (int, float, Tensor))
        }
        nan = any(math.isnan(value) for value in losses.values())
        if not max_over_processes(nan):
            if not all(map(math.isfinite, losses.values())):
                self._warn(runner, f"A loss is infinite. {self._report(runner, losses)}")
            return
        text = f"{'A loss' if nan else 'A loss of another process'} is NaN."
        if self.action == "warn":
            self._warn(runner, f"{text} {self._report(runner, losses)}")
        else:
            self._stop(runner, text, losses)

    def _report(self, runner: Runner, losses: Mapping, limit: int | None = None) -> str:
        files = list(image_files(self._batch)) or ["their names are not in it"]
        if limit is not None and len(files) > limit:
            files = [*files[:limit], f"and {len(files) - limit} more, which the log names"]
        values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        text = f"Iteration {runner.iter + 1}, epoch {runner.epoch + 1}: {values or 'no losses'}. "
        text += f"Files of the batch: {', '.join(files)}."
        last, before = (self._norms.last, self._norms.before) if self._norms else ({}, {})
        for which, found in (("last", last), ("previous", before)):
            if found:
                text += f" Largest gradient norms of the {which} update: "
                text += f"{_describe_norms(found, self.top)}."
        return text

    def _warn(self, runner: Runner, text: str) -> None:
        self._warned += 1
        if self._warned <= self.limit:
            last = " No more of these warnings follow." if self._warned == self.limit else ""
            runner.logger.warning(text + last)

    def _stop(self, runner: Runner, text: str, losses: Mapping[str, float]) -> None:
        runner.logger.error(f"{text} {self._report(runner, losses)}")
        report = self._report(runner, losses, FILES)
        last = describe_last_checkpoint(runner.work_dir)
        raise InputError(f"{STOPPED} {text} {report} {last}. {REMEDIES}")

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite."""
        if self.action == "ignore":
            return
        broken = broken_weights(runner, checkpoint)
        if broken:
            names = ", ".join(broken[: self.top])
            self._stop(runner, f"NaN or infinity in {len(broken)} weights ({names}).", {})
