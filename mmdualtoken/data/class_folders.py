"""Whether training and validation by folders of classes give a class the same label."""

import logging
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.logging import print_log

from mmdualtoken.errors import InputError

KINDS = ("CustomDataset", "ImageNet")


def class_folders(dataset: ConfigDict) -> tuple[Path, list[str]] | None:
    """The folder of mmpretrain's data set and its classes in the order of their labels.

    None where labels do not come from folders, or where there are none.
    """
    kind = dataset.get("type")
    if getattr(kind, "__name__", str(kind)).split(".")[-1] not in KINDS:
        return None
    if dataset.get("ann_file") or dataset.get("with_label") is False:
        return None
    prefix = dataset.get("data_prefix") or dataset.get("split") or ""
    if isinstance(prefix, dict):
        prefix = prefix.get("img_path") or ""
    root = Path(dataset.get("data_root") or "") / prefix
    if not root.is_dir():
        return None
    return root, sorted(entry.name for entry in root.iterdir() if entry.is_dir())


def check_class_folders(datasets: Iterable[ConfigDict]) -> None:
    """Compare the class folders of data sets that a model is trained and validated on.

    mmpretrain counts the folders of each set for itself: where one lacks a class, those after it
    get other labels, and the accuracy is that of other classes.

    Raises:
        InputError: a class has different labels in two of the sets.
    """
    first, *others = [found for found in map(class_folders, datasets) if found and found[1]] or [()]
    for root, names in others:
        for label, (expected, name) in enumerate(zip_longest(first[1], names)):
            if name is None or expected == name:
                continue
            here = f"{name!r} in {root}"
            there = f"{expected!r} in {first[0]}" if expected else f"no class in {first[0]}"
            raise InputError(
                f"Label {label} is {here}, but {there}: labels are the numbers of the class "
                f"folders in alphabetical order, of which the sets have {len(names)} and "
                f"{len(first[1])}. Give both the same folders; one without images may be empty."
            )
        if len(names) < len(first[1]):
            lacking = ", ".join(first[1][len(names) :][:5])
            text = f"{root} has no folders for the last classes of {first[0]}: {lacking}"
            print_log(text, logger="current", level=logging.WARNING)
