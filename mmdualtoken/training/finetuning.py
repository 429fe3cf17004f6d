"""Fine-tuning a trained model to other classes."""

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from mmdualtoken.config_files import type_name
from mmdualtoken.errors import InputError, log_warning
from mmdualtoken.weights.fitting import dataset_meta, fit_classes, moved_class, without_wrapper
from mmdualtoken.weights.pretrained import describe_misfit, tensors_of

OF_NORMS = ("running_mean", "running_var")
# Arguments by which optimizers with other states differ: Adam's, SGD's, RMSprop's, Adadelta's.
KINDS_OF_STATE = {"betas", "momentum", "alpha", "rho"}


def check_resumed(model: nn.Module, state: Mapping, filename: str) -> None:
    """Check that a resumed run has the model that it began with.

    MMEngine only warns, until the optimizer, which has the old shapes, fails.

    Raises:
        InputError: the checkpoint and the model have other tensors, or of other shapes. Buffers
            count only if they are a norm's: some models make others when they first run.
    """
    own = {k: v for k, v in get_state_dict(model).items() if isinstance(v, Tensor)}
    state = without_wrapper(own, state)
    # Parts that are wrapped each by itself have names with 'module', which files have not.
    learnt = {name.replace(".module.", ".") for name, _ in model.named_parameters()}
    modules = {name.replace(".module.", ".") for name, _ in model.named_modules()}
    missing = [k for k in own if k not in state and (k in learnt or k.endswith(OF_NORMS))]
    unknown = [
        k
        for k in state
        if k not in own
        and (k.rpartition(".")[0] not in modules or k.endswith(("weight", "bias", *OF_NORMS)))
    ]
    other = [k for k in own if k in state and state[k].shape != own[k].shape]
    if missing or unknown or other:
        raise InputError(
            f"Resuming from {filename}: the config's model is another one. "
            f"{describe_misfit(own, state, missing, unknown, other)}. Resume a run with the config "
            "and the options that it began with, such as --pretrained. To train other classes from "
            "its weights, use tools/train.py --load-from, or load_from without resume."
        )


def check_resumed_optimizer(optimizer: Optimizer, state: Mapping, filename: str) -> None:
    """Check that a resumed run has the kind of optimizer that it began with.

    PyTorch fails at the first step, in the middle of the optimizer, or loads states that mean
    something else.

    Raises:
        InputError: the checkpoint's groups of parameters are others, or of another optimizer.
    """
    own, there = optimizer.param_groups, state.get("param_groups") or []
    kinds = [sorted(KINDS_OF_STATE & {*groups[0]}) if groups else [] for groups in (own, there)]
    sizes = [[len(group["params"]) for group in groups] for groups in (own, there)]
    if sizes[0] == sizes[1] and kinds[0] == kinds[1]:
        return
    raise InputError(
        f"Resuming from {filename}: the config's optimizer, {type(optimizer).__name__}, is not the "
        f"one that the run began with (by the config {len(own)} groups of {sum(sizes[0])} "
        f"parameters with {kinds[0]}, in the file {len(there)} groups of {sum(sizes[1])} with "
        f"{kinds[1]}). Resume a run with the config that it began "
        "with. To train its weights with another optimizer, use tools/train.py --load-from."
    )


def _old_and_new_classes(runner: Runner, checkpoint: Mapping) -> tuple:
    """Return the names of the classes in the checkpoint and in the data set; None if not known."""
    meta = getattr(runner._train_loop.dataloader.dataset, "metainfo", None) or {}
    return dataset_meta(checkpoint).get("classes"), meta.get("classes")


def _same_number_of_other_classes(runner: Runner, checkpoint: Mapping) -> str:
    """A remark where the data set names other classes than the checkpoint, as many; else ''."""
    old, new = _old_and_new_classes(runner, checkpoint)
    if not old or not new or list(old) == list(new) or len(old) != len(new):
        return ""
    return (
        f"; its classes {list(old)[:5]} are not those of the data set, {list(new)[:5]}, but as "
        "many, so that the class layers start from theirs"
    )


@HOOKS.register_module(force=True)
class DropClassLayersHook(Hook):
    """Start training from a model of other classes: `load_from` without the layers that differ.

    When training loads its `load_from`, class layers with another number of outputs, such as
    fc_cls, fc_reg, conv_logits, conv_seg or fc, keep their initial weights; everything else is
    taken. One line names them. It is an error if anything else is missing, not known, or of another
    shape. A resumed run must have the shapes that it began with. Testing is not checked, nor are
    models sharded by FSDP: all their tensors must fit.

    tools/train.py adds the hook by itself; for the toolboxes' own train.py:
    custom_hooks = [dict(type="DropClassLayersHook")].

    Raises:
        InputError: the checkpoint does not fit; the message lists what.
    """

    priority = "VERY_HIGH"  # before EMAHook, which loads the checkpoint into its copy

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the fitting tensors into checkpoint['state_dict']."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        if isinstance(runner.model, FullyShardedDataParallel):
            return  # has parts of tensors here; PyTorch's loading stops at shapes that differ
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        filename = str(runner._load_from or "the checkpoint")
        state = tensors_of(checkpoint, filename)
        if runner._resume:
            check_resumed(model, state, filename)
            if moved := moved_class(*_old_and_new_classes(runner, checkpoint)):
                raise InputError(
                    f"Resuming from {filename}: the data's classes are in another order: {moved}. "
                    "Set metainfo.classes as in the config that the run began with."
                )
            if "ema_state_dict" in checkpoint and not any(
                isinstance(hook, EMAHook) for hook in runner.hooks
            ):
                raise InputError(
                    f"Resuming from {filename}: the run averaged its weights, and the config has "
                    "no EMAHook. Resume with the custom_hooks that it began with. To go on from "
                    "the averages alone, use tools/train.py --load-from."
                )
            if other := _same_number_of_other_classes(runner, checkpoint):
                log_warning(f"Resuming from {filename}{other}.")
            optimizer = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
            states = checkpoint.get("optimizer")
            if isinstance(optimizer, Optimizer) and isinstance(states, Mapping):
                check_resumed_optimizer(optimizer, states, filename)
            return
        fitted, dropped = fit_classes(model, state, filename)
        text = f"kept {len(fitted) - len(dropped)} of {len(fitted)} tensors of {filename}"
        if dropped:
            layers = {k.rpartition(".")[0]: (old, len(fitted[k])) for k, old in dropped.items()}
            names = (f"{layer} ({old} outputs, now {new})" for layer, (old, new) in layers.items())
            text += f"; newly initialized class layers: {', '.join(names)}"
        print_log(text + _same_number_of_other_classes(runner, checkpoint), logger="current")
        checkpoint["state_dict"] = fitted


def add_class_layer_hook(cfg: Config) -> None:
    """Add `DropClassLayersHook` to a config that has `load_from` or `resume`, in place."""
    hooks = cfg.get("custom_hooks") or []
    added = "DropClassLayersHook" in map(type_name, hooks)
    if (cfg.get("load_from") or cfg.get("resume")) and not added:
        cfg.custom_hooks = [*hooks, dict(type="DropClassLayersHook")]
