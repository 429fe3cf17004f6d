"""Fitting a checkpoint's tensors to a model: names, token grids, classes."""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mmdualtoken.errors import InputError

COUNTER = "num_batches_tracked"  # of a BatchNorm; older files lack it, and MMEngine minds no more
# Parts whose outputs do not depend on the classes; an RPN tells objects from background.
CLASS_AGNOSTIC = {"backbone", "neck", "rpn_head"}


def list_names(names: Iterable[str], limit: int = 12) -> str:
    """Names in short: those that differ in their numbers only as one, 'blocks.*.proj.bias (12)'."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    texts = [g[0] if len(g) == 1 else f"{pattern} ({len(g)})" for pattern, g in groups.items()]
    more = [f"and {len(texts) - limit} more kinds"] if len(texts) > limit else []
    return ", ".join(texts[:limit] + more)


def describe_misfit(own: Mapping, state: Mapping, missing: list, unknown: list, other: list) -> str:
    """In words: which of a module's tensors `own` a file's tensors `state` do not fit."""
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
    """The tensors of a checkpoint by name, out of 'state_dict' or 'model' if it has one.

    MMEngine's EMAHook puts the averaged weights into 'state_dict', so that they are taken.

    Raises:
        InputError: there are none.
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
    model: nn.Module, state: Mapping, optional: Collection[str] = ()
) -> tuple[OrderedDict, list[str], list[str], list[str]]:
    """Compare a checkpoint's tensors with a model's, token grids brought to the model's.

    Args:
        model: detector, segmentor or classifier.
        state: tensors of the checkpoint by name, with or without 'module.' before them.
        optional: names that the checkpoint may lack.

    Returns:
        the checkpoint's tensors as the model names them; names that it lacks; names that the
        model lacks; names whose shapes differ.
    """
    own = model.state_dict()
    state = without_wrapper(own, state)
    fitted = OrderedDict(state)
    fitted._metadata = getattr(state, "_metadata", OrderedDict())
    absent = [k for k in own if k not in state and not k.endswith(COUNTER)]
    missing = [k for k in absent if k not in optional]
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
