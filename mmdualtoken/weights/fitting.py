"""Fitting a checkpoint's tensors to a model: names, token grids, classes."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.weights.pretrained import COUNTER, describe_misfit

# Parts whose outputs do not depend on the classes; an RPN tells objects from background.
CLASS_AGNOSTIC = {"backbone", "neck", "rpn_head"}


def _is_class_layer(model: nn.Module, name: str) -> bool:
    """Return whether a tensor is part of a head that counts classes, by its `num_classes`."""
    parents = name.split(".")[:-1]
    if CLASS_AGNOSTIC & set(parents):
        return False
    paths = (".".join(parents[:i]) for i in range(1, len(parents) + 1))
    return any(hasattr(model.get_submodule(path), "num_classes") for path in paths)


def _other_outputs(here, there) -> bool:
    """Return whether two shapes differ in the first dimension, the outputs, at most."""
    return here.dim() == there.dim() > 0 and here.shape[1:] == there.shape[1:]


def without_wrapper(own: Mapping, state: Mapping) -> Mapping:
    """Return a checkpoint's tensors without the 'module.' of a wrapped or averaged model."""
    if any(k.startswith("module.") for k in own) or not any(k.startswith("module.") for k in state):
        return state
    # An averaged model counts its steps beside them.
    return {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}


def match_tensors(
    model: nn.Module, state: Mapping
) -> tuple[OrderedDict, list[str], list[str], list[str]]:
    """Compare a checkpoint's tensors with a model's, after resizing token grids to the model's.

    Args:
        model: detector, segmentor or classifier.
        state: tensors of the checkpoint by name; the names may begin with 'module.'.

    Returns:
        the checkpoint's tensors by the model's names; missing keys, which only the model has;
        unexpected keys, which only the checkpoint has; keys whose shapes differ.
    """
    own = model.state_dict()
    state = without_wrapper(own, state)
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
    """Return a checkpoint's tensors for `model`, with the model's own for class layers that differ.

    Args:
        model: detector, segmentor or classifier.
        state: tensors of the checkpoint by name; the names may begin with 'module.'.
        filename: the checkpoint, for messages.

    Returns:
        a tensor for each key of the model; and the keys that keep the model's own tensors, with
        their number of outputs in the checkpoint.

    Raises:
        InputError: outside of class layers a tensor is missing, unexpected, or of another shape.
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
