"""Rules for the names of classes in a config, and for the heads of its model that count them.

A rule yields (severity, kind, detail, remedy); see `Finding`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_from_file

from mmdualtoken.config_files import type_name
from mmdualtoken.data.check.findings import ERROR, WARNING, name_list

Breach = tuple[str, str, str, str]
#: Parts of a model that count no classes, or others: an RPN tells objects from background, a
#: semantic head of a detector has the classes of its maps.
OTHERS = {"backbone", "neck", "rpn_head", "semantic_head", "data_preprocessor"}
OTHER_TYPES = {"STDCHead"}  # of mmseg: learns edges
NO_BOM = "save it as UTF-8 without byte order mark (BOM)"


def names_in(dataset: ConfigDict) -> Any:
    """Return the class names that a data set's config gives: a list, or a text naming a file."""
    return (dataset.get("metainfo") or {}).get("classes") or dataset.get("classes")


def list_rules(path: str) -> Iterator[Breach]:
    """Check the encoding of a file with a name on each line, which MMEngine reads as UTF-8."""
    try:
        lines = list_from_file(path)
    except UnicodeDecodeError as error:
        yield ERROR, "is not encoded in UTF-8", str(error), NO_BOM
        return
    if lines and lines[0].startswith("\ufeff"):
        yield ERROR, "begins with a byte order mark (BOM)", repr(lines[0]), NO_BOM


def name_rules(names: Any, scope: str) -> Iterator[Breach]:
    """Check the class names as a config gives them, or those in the file that it names.

    None passes. The scope counts, as mmdet looks categories up by their names.
    """
    if isinstance(names, str) and os.path.isfile(names):
        if breaches := list(list_rules(names)):
            yield from breaches
            return
        names = list_from_file(names)
    if names is None or isinstance(names, str) and "://" in names:  # MMEngine's other storage
        return
    if isinstance(names, str):
        remedy = f"write a tuple or a list; one name needs a comma, classes=({names!r},)"
        yield ERROR, f"has classes={names!r}, neither a list nor a file of names", "", remedy
    elif not isinstance(names, (list, tuple)):
        kind = f"has classes as a {type(names).__name__}, which has no order"
        yield ERROR, kind, repr(names)[:60], "write a tuple or a list"
    elif wrong := [name for name in names if not isinstance(name, str) or not name.strip()]:
        remedy = "a name is a text; a file has one on each line and no empty lines"
        yield ERROR, "has classes without a name", name_list(map(repr, wrong)), remedy
    elif twice := [name for name, count in Counter(names).items() if count > 1]:
        severity, remedy = WARNING, "give each its own name to tell their results apart"
        if scope == "mmdet":
            severity, remedy = ERROR, "list each once: mmdet numbers later classes differently"
        yield severity, "has classes of the same name", name_list(twice), remedy


def heads_of(model: Any, path: str = "model") -> Iterator[tuple[str, str, ConfigDict]]:
    """Yield (path, key, config) of the parts of a model that count the classes of its data set.

    The path is that for --cfg-options; the key is the one that holds their number.
    """
    if isinstance(model, dict):
        # A model with a language model takes the names themselves.
        if {"class_agnostic", "language_model"} & {key for key in model if model[key]}:
            return
        if model.get("type") in OTHER_TYPES:
            return
        for key in ("num_classes", "num_things_classes"):
            if isinstance(model.get(key), int):
                yield path, key, model
        children = model.items()
    else:
        children = enumerate(model)
    for key, child in children:
        if isinstance(child, (dict, list, tuple)) and key not in OTHERS:
            yield from heads_of(child, f"{path}.{key}")


def num_labels(head: ConfigDict, key: str = "num_classes") -> int:
    """Return the number of labels that a head learns: 2 of a segmentor's one sigmoid channel."""
    one = "channels" in head and head.get("out_channels", head[key]) == 1
    return 2 if one else head[key]


def loss_rules(model: ConfigDict, scope: str) -> Iterator[Breach]:
    """Check what the losses of the heads ask of the number of classes.

    mmdet's heads with a softmax count the background, too.
    """
    for path, key, head in heads_of(model):
        for name, losses in head.items():
            for loss in losses if isinstance(losses, list) else [losses]:
                if key == "num_classes" and isinstance(loss, dict) and "type" in loss:
                    detection = scope == "mmdet" or str(loss["type"]).startswith("mmdet.")
                    yield from _loss_rules(f"{path}.{name}", head, loss, detection)


def _loss_rules(path: str, head: ConfigDict, loss: ConfigDict, detection: bool) -> Iterator[Breach]:
    softmax = type_name(loss) == "CrossEntropyLoss" and not loss.get("use_sigmoid")
    one = head.get("out_channels", head["num_classes"]) == 1 and "channels" in head
    if one and softmax:
        remedy = "set use_sigmoid=True and out_channels=1 with num_classes=2, or two channels"
        yield ERROR, f"{path} is a softmax of one channel", "it always predicts 0", remedy
    weights = loss.get("class_weight")
    if not isinstance(weights, (list, tuple)) or loss.get("use_mask"):
        return
    wanted = 1 if one else head["num_classes"] + (detection and softmax)
    if "channels" in head and not one and loss.get("use_sigmoid"):
        remedy = "set use_sigmoid=False: mmseg weights classes with a softmax alone"
        yield ERROR, f"{path} has class_weight and use_sigmoid=True", "", remedy
    elif len(weights) != wanted:
        kind = f"{path}.class_weight has {len(weights)} values instead of {wanted}"
        background = " and the background, the last" if detection and softmax else ""
        yield ERROR, kind, f"num_classes={head['num_classes']}", f"one for each class{background}"


def head_rules(cfg: Config, names: Sequence[str], own: bool) -> Iterator[Breach]:
    """Compare the heads of a config's model with the names of a data set's classes.

    `own`: whether the config names them; else they are those of the data set's class.
    """
    model, count = cfg.get("model") or {}, len(names)
    found = [(path, head[key], num_labels(head, key)) for path, key, head in heads_of(model)]
    mixes = bool((model.get("train_cfg") or {}).get("augments"))  # labels, of mmpretrain
    for path, part in (("model.", model), ("", cfg)):
        part = part.get("data_preprocessor") or {}
        if part.get("num_classes") and (mixes or part.get("to_onehot")):
            found.append((f"{path}data_preprocessor", *[part["num_classes"]] * 2))
    wrong = [(path, number) for path, number, labels in found if labels != count]
    if not count or not wrong:
        return
    # A model with more outputs than classes learns to leave them out. Who names the classes means
    # as many outputs.
    numbers = {labels for _, _, labels in found}
    severity = ERROR if own or len(numbers) > 1 or min(numbers) < count else WARNING
    by = " by metainfo.classes" if own else ""
    kind = f"has {count} classes{by} ({name_list(names)}), but the model counts others"
    detail = name_list(f"{path} has num_classes={number}" for path, number in wrong)
    remedy = f"set num_classes of every head to {count}"
    if not own:
        remedy = f"set metainfo.classes to the names of your classes, or {remedy}"
    yield severity, kind, detail, remedy
