"""Fine-tuning a trained model to other classes."""

from collections import OrderedDict
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from .errors import InputError
from .pretrained import COUNTER, describe_misfit, tensors_of

# Parts whose outputs do not depend on the classes; an RPN tells objects from background.
CLASS_AGNOSTIC = {"backbone", "neck", "rpn_head"}
# Arguments by which optimizers with other states differ: Adam's, SGD's, RMSprop's, Adadelta's.
KINDS_OF_STATE = {"betas", "momentum", "alpha", "rho"}


def _is_class_layer(model: nn.Module, name: str) -> bool:
    """Whether a tensor lies in a head that counts classes: below a module with `num_classes`."""
    parents = name.split(".")[:-1]
    if CLASS_AGNOSTIC & set(parents):
        return False
    paths = (".".join(parents[:i]) for i in range(1, len(parents) + 1))
    return any(hasattr(model.get_submodule(path), "num_classes") for path in paths)


def _other_outputs(here, there) -> bool:
    """Whether two tensors differ in their first dimension, the outputs, and in nothing else."""
    return here.dim() == there.dim() > 0 and here.shape[1:] == there.shape[1:]


def _without_wrapper(own: Mapping, state: Mapping) -> Mapping:
    """A checkpoint's tensors without the 'module.' of a wrapped or averaged model."""
    if any(k.startswith("module.") for k in own) or not any(k.startswith("module.") for k in state):
        return state
    # An averaged model counts its steps beside them.
    return {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}


def match_tensors(
    model: nn.Module, state: Mapping
) -> tuple[OrderedDict, list[str], list[str], list[str]]:
    """Compare a checkpoint's tensors with a model's, token grids brought to the model's.

    Args:
        model: detector, segmentor or classifier.
        state: tensors of the checkpoint by name, with or without 'module.' before them.

    Returns:
        the checkpoint's tensors as the model names them; names that it lacks; names that the
        model lacks; names whose shapes differ.
    """
    own = model.state_dict()
    state = _without_wrapper(own, state)
    fitted = OrderedDict(state)
    fitted._metadata = getattr(state, "_metadata", OrderedDict())
    missing = [k for k in own if k not in state and not k.endswith(COUNTER)]
    unknown = [k for k in state if k not in own]
    if not missing and not unknown:
        for name, module in model.named_modules():
            if hasattr(module, "resize_loaded_tokens"):
                module.resize_loaded_tokens(fitted, f"{name}." if name else "")
    other = [k for k in own if k in fitted and fitted[k].shape != own[k].shape]
    return fitted, missing, unknown, other


def fit_classes(
    model: nn.Module, state: Mapping, filename: str
) -> tuple[OrderedDict, dict[str, int]]:
    """The tensors for `model`: a checkpoint's, but the model's own for class layers that differ.

    Args:
        model: detector, segmentor or classifier.
        state: tensors of the checkpoint by name, with or without 'module.' before them.
        filename: the checkpoint, for messages.

    Returns:
        one tensor for each of the model's; and which are the model's own, with the outputs that
        they have in the checkpoint.

    Raises:
        InputError: a tensor is missing, not known, or of another shape elsewhere.
    """
    own = model.state_dict()
    fitted, missing, unknown, other = match_tensors(model, state)
    dropped = {
        k: len(fitted[k])
        for k in other
        if _is_class_layer(model, k) and _other_outputs(own[k], fitted[k])
    }
    wrong = [k for k in other if k not in dropped]
    if missing or unknown or wrong:
        misfit = describe_misfit(own, fitted, missing, unknown, other if wrong else [])
        raise InputError(
            f"load_from {filename} does not fit the config's model. {misfit}. Use the config that "
            "it was trained with, and change the classes only. To start the backbone alone from "
            "it, use tools/train.py --pretrained or the backbone's init_cfg."
        )
    for key in own:
        if key in dropped or key not in fitted:
            fitted[key] = own[key]
    return fitted, dropped


def _describe_layers(fitted: Mapping, dropped: dict[str, int]) -> str:
    """The layers of the dropped tensors, with their numbers of outputs."""
    layers = {k.rpartition(".")[0]: (old, len(fitted[k])) for k, old in dropped.items()}
    return ", ".join(f"{layer} ({old} outputs, now {new})" for layer, (old, new) in layers.items())


def check_resumed(model: nn.Module, state: Mapping, filename: str) -> None:
    """Check that a run which goes on has the model that it began with.

    MMEngine warns and goes on, until the optimizer, which has the old shapes, fails.

    Raises:
        InputError: a tensor of the checkpoint is of another shape than the model's.
    """
    own = model.state_dict()
    state = _without_wrapper(own, state)
    other = [k for k in own if k in state and state[k].shape != own[k].shape]
    if other:
        raise InputError(
            f"Resuming from {filename}: the config's model is another one. "
            f"{describe_misfit(own, state, [], [], other)}. A run goes on with the config it began "
            "with. To train other classes from its weights, use tools/train.py --load-from, or "
            "load_from without resume."
        )


def check_resumed_optimizer(optimizer: Optimizer, state: Mapping, filename: str) -> None:
    """Check that a run which goes on has the kind of optimizer that it began with.

    PyTorch fails at the first step, in the middle of the optimizer, or loads states that mean
    something else.

    Raises:
        InputError: the checkpoint's groups of parameters are not as many, or of another optimizer.
    """
    own, there = optimizer.param_groups, state.get("param_groups") or []
    kinds = [KINDS_OF_STATE & set(groups[0]) if groups else set() for groups in (own, there)]
    if len(own) == len(there) and kinds[0] == kinds[1]:
        return
    ours, theirs = (
        f"{len(groups)} groups with {sorted(kind)}"
        for groups, kind in zip((own, there), kinds, strict=True)
    )
    raise InputError(
        f"Resuming from {filename}: the config's optimizer, {type(optimizer).__name__}, is not the "
        f"one that the run began with (by the config {ours}, in the file {theirs}). A "
        "run goes on with the config it began with. To train its weights on with another "
        "optimizer, use tools/train.py --load-from."
    )


def _same_number_of_other_classes(runner: Runner, checkpoint: Mapping) -> str:
    """A remark where the data set names other classes than the checkpoint, as many; else ''."""
    meta = (checkpoint.get("meta") or {}).get("dataset_meta") or {}
    dataset = runner._train_loop.dataloader.dataset
    old, new = meta.get("classes"), (getattr(dataset, "metainfo", None) or {}).get("classes")
    if not old or not new or list(old) == list(new) or len(old) != len(new):
        return ""
    return (
        f"; its classes {list(old)[:5]} are not those of the data set, {list(new)[:5]}, but as "
        "many, so that the class layers start from theirs"
    )


@HOOKS.register_module()
class DropClassLayersHook(Hook):
    """Start training from a model of other classes: `load_from` without the layers that differ.

    When training loads its `load_from`, class layers with another number of outputs, such as
    fc_cls, fc_reg, conv_logits, conv_seg or fc, keep their initial weights; everything else is
    taken. One line names them. It is an error if anything else is missing, not known, or of another
    shape. A resumed run must have the shapes that it began with. Testing is left alone, and so are
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
            optimizer = getattr(getattr(runner, "optim_wrapper", None), "optimizer", None)
            states = checkpoint.get("optimizer")
            if isinstance(optimizer, Optimizer) and isinstance(states, Mapping):
                check_resumed_optimizer(optimizer, states, filename)
            return
        fitted, dropped = fit_classes(model, state, filename)
        text = f"kept {len(fitted) - len(dropped)} of {len(fitted)} tensors of {filename}"
        if dropped:
            text += f"; class layers that start anew: {_describe_layers(fitted, dropped)}"
        print_log(text + _same_number_of_other_classes(runner, checkpoint), logger="current")
        checkpoint["state_dict"] = fitted


def fine_tune(cfg: Config) -> None:
    """Add `DropClassLayersHook` to a config that loads a checkpoint, or resumes.

    Args:
        cfg: changed in place where it has `load_from` or `resume`.
    """
    hooks = cfg.get("custom_hooks") or []
    kinds = [hook.get("type") for hook in hooks]
    added = "DropClassLayersHook" in kinds or DropClassLayersHook in kinds
    if (cfg.get("load_from") or cfg.get("resume")) and not added:
        cfg.custom_hooks = [*hooks, dict(type="DropClassLayersHook")]
