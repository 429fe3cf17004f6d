"""Fitting a checkpoint's tensors to a model: names, token grids, classes."""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmdualtoken.errors import InputError

COUNTER = "num_batches_tracked"  # of a BatchNorm; older files lack it, and MMEngine minds no more
# Parts whose outputs do not depend on the classes; an RPN tells objects from background.
CLASS_AGNOSTIC = {"backbone", "neck", "rpn_head"}


def list_names(names: Iterable[str], limit: int = 12) -> str:
    """List names briefly: 'blocks.*.proj.bias (12)' for 12 that differ in their numbers only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    texts = [g[0] if len(g) == 1 else f"{pattern} ({len(g)})" for pattern, g in groups.items()]
    more = [f"and {len(texts) - limit} more kinds"] if len(texts) > limit else []
    return ", ".join(texts[:limit] + more)


def describe_misfit(own: Mapping, state: Mapping, missing: list, unknown: list, other: list) -> str:
    """Describe how a file's tensors `state` differ from a module's tensors `own`."""
    parts = []
    if missing:
        parts.append(f"missing ({len(missing)}): {list_names(missing)}")
    if unknown:
        parts.append(f"not known ({len(unknown)}): {list_names(unknown)}")
    if other:
        name = other[0]
        parts.append(
            f"of another shape ({len(other)}): {list_names(other)}, where {name} is "
            f"{tuple(state[name].shape)} in the file, {tuple(own[name].shape)} by the config"
        )
    return f"Tensors {'; '.join(parts)}"


def tensors_of(content: Any, filename: str) -> OrderedDict[str, Tensor]:
    """Return a checkpoint's tensors by name, from 'state_dict' or 'model' if it has one.

    After training with MMEngine's EMAHook, 'state_dict' holds the averaged weights.

    Raises:
        InputError: the checkpoint has no tensors by name.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = OrderedDict((k, v) for k, v in named if isinstance(k, str) and isinstance(v, Tensor))
    tensors._metadata = getattr(content, "_metadata", OrderedDict())  # versions of the modules
    if not tensors:
        found = list(content)[:5] if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"{filename} holds no tensors by name (found: {found}). A checkpoint that training "
            "wrote is needed: a dict of tensors, alone or under 'state_dict' or 'model'."
        )
    return tensors


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
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(first):
        labels.setdefault(name, []).append(label)  # two of ImageNet's classes are called crane
    for label, name in enumerate(second):
        if label not in labels.get(name, [label]):
            return f"{name!r} has label {label}, there {labels[name][0]}"
    return ""


def _is_class_layer(model: nn.Module, name: str) -> bool:
    """Return whether a tensor is part of a head that counts classes, by its `num_classes`."""
    parents = name.split(".")[:-1]
    if CLASS_AGNOSTIC & set(parents):
        return False
    paths = (".".join(parents[:i]) for i in range(1, len(parents) + 1))
    return any(hasattr(model.get_submodule(path), "num_classes") for path in paths)


def without_wrapper(own: Mapping, state: Mapping) -> Mapping:
    """Return a checkpoint's tensors without the 'module.' of a wrapped or averaged model."""
    if any(k.startswith("module.") for k in own) or not any(k.startswith("module.") for k in state):
        return state
    # An averaged model counts its steps beside them.
    return {k.removeprefix("module."): v for k, v in state.items() if k.startswith("module.")}


def match_tensors(
    model: nn.Module, state: Mapping, optional: Collection[str] = ()
) -> tuple[OrderedDict, list[str], list[str], list[str]]:
    """Compare a checkpoint's tensors with a model's, after resizing token grids to the model's.

    Args:
        state: tensors of the checkpoint by name; the names may begin with 'module.'.
        optional: names that the checkpoint may lack.

    Returns:
        the checkpoint's tensors by the model's names; missing keys, which only the model has;
        unexpected keys, which only the checkpoint has; keys whose shapes differ.
    """
    own = model.state_dict()
    state = without_wrapper(own, state)
    fitted = OrderedDict(state)
    fitted._metadata = getattr(state, "_metadata", OrderedDict())
    absent = [k for k in own if k not in state and not k.endswith(COUNTER)]
    missing = [k for k in absent if k not in optional]
    unknown = [k for k in state if k not in own]
    for name, module in model.named_modules():
        if hasattr(module, "resize_loaded_tokens"):
            module.resize_loaded_tokens(fitted, f"{name}." if name else "")
    other = [k for k in own if k in fitted and fitted[k].shape != own[k].shape]
    return fitted, missing, unknown, other


def fit_classes(
    model: nn.Module, state: Mapping, filename: str
) -> tuple[OrderedDict, dict[str, int]]:
    """Return a checkpoint's tensors for `model`, with the model's own for class layers that differ.

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
        # They differ in the first dimension, the outputs, alone.
        if 0 < own[k].dim() == fitted[k].dim() and own[k].shape[1:] == fitted[k].shape[1:]
        if _is_class_layer(model, k)
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
