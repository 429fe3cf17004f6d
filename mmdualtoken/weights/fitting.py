"""Fitting a checkpoint's tensors to a model: names, token grids, classes."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmdualtoken.errors import InputError
from mmdualtoken.weights.pretrained import COUNTER, describe_misfit

# Parts whose outputs do not depend on the classes; an RPN tells objects from background.
CLASS_AGNOSTIC = {"backbone", "neck", "rpn_head"}


def dataset_meta(checkpoint: Any) -> dict[str, Any]:
    """Return what a checkpoint says of its data set, such as `classes`, by names in lower case."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    meta = {k.lower(): v for k, v in (meta or {}).items()}
    found = {k.lower(): v for k, v in (meta.get("dataset_meta") or meta).items()}
    if isinstance(found.get("classes"), str):  # mmdet's and mmseg's may hold one name as a text
        found["classes"] = (found["classes"],)
    return found


def moved_class(first: Sequence[str] | None, second: Sequence[str] | None) -> str:
    """Say which class has another label in the second list of names; '' if none has."""
    if not first or not second:
        return ""
    labels = {name: label for label, name in enumerate(first)}
    for label, name in enumerate(second):
        if labels.get(name, label) != label:
            return f"{name!r} has label {label}, there {labels[name]}"
    return ""


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


def without_wrapper(own: Mapping, state: Mapping) -> Mapping:
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
