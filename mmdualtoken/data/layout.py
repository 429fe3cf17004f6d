"""Where the data of a config lies: its files and folders, before any is read."""

import os
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmdualtoken.config_files import PROJECT_ROOT, type_name

#: By scope: files below {root}, and arguments of tools/make_scenes.py for a small set like it.
LAYOUTS = {
    "mmdet": (
        "{root}annotations/instances_train2017.json, {root}annotations/instances_val2017.json, "
        "{root}train2017/*.jpg, {root}val2017/*.jpg",
        "data/scenes",
    ),
    "mmseg": (
        "{root}images/training/*.jpg, {root}images/validation/*.jpg, "
        "{root}annotations/training/*.png, {root}annotations/validation/*.png",
        "data/scenes-ade20k --layout ade20k",
    ),
    "mmpretrain": (
        "{root}train/CLASS/*.jpg, {root}val/CLASS/*.jpg",
        "data/scenes-imagenet --layout imagenet",
    ),
}


def innermost_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Yield the data set configs inside of wrappers such as RepeatDataset or ConcatDataset."""
    inner = dataset.get("datasets") or [d for d in [dataset.get("dataset")] if d]
    if not inner:
        yield dataset
    for child in inner:
        yield from innermost_datasets(child)


def locate_data(cfg: Config, loader: str) -> list[ConfigDict]:
    """Return the innermost data sets of a dataloader.

    Where the working directory lacks a relative data_root and the project has it, the paths in the
    config are changed to the project's.
    """
    found = list(innermost_datasets(cfg[loader]["dataset"])) if cfg.get(loader) else []
    for dataset in found:
        root = dataset.get("data_root") or ""
        if root and not Path(root).exists() and (PROJECT_ROOT / root).exists():
            for key in list(cfg):
                if key.endswith(("_dataloader", "_evaluator")):
                    _move_paths(cfg[key], root)
    return found


def _move_paths(node: object, root: str) -> object:
    """Put the project's folder before all paths below `root`, in place."""
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = _move_paths(value, root)
    elif isinstance(node, list):
        node[:] = [_move_paths(value, root) for value in node]
    elif isinstance(node, str) and f"{node}/".startswith(root.rstrip("/") + "/"):
        return str(PROJECT_ROOT / node) + ("/" if node.endswith("/") else "")
    return node


def layout_advice(cfg: Config, dataset: ConfigDict) -> str:
    """Say where the data of a config usually lies, and how to name other places."""
    root = str(Path(dataset.get("data_root") or ".")) + "/"
    layout, scenes = LAYOUTS.get(cfg.get("default_scope"), ("{root}...", "data/scenes"))
    return (
        f"the usual layout is {layout.format(root=root)}. Put the data "
        f"there, link to it (ln -s /path/to/data {root[:-1]}), or name your "
        "own paths with --cfg-options: train_dataloader.dataset.data_root=/path/ , likewise for "
        "val_dataloader and test_dataloader, and val_evaluator.ann_file. "
        f"For a small set to try things out: python tools/make_scenes.py {scenes}"
    )


def _fold(name: str) -> str:
    """Return what names that look the same share; macOS writes accents apart from letters."""
    return unicodedata.normalize("NFC", name).casefold()


@lru_cache(maxsize=8)
def _folded_names(folder: str, modified_ns: int) -> dict[str, str]:
    return {_fold(name): name for name in os.listdir(folder)}


def missing_hint(path: str | Path) -> str:
    """Say why a path does not exist, where its writing shows that; '' otherwise.

    A link may lead nowhere. A path written on Windows has backslashes, or differs from the name on
    the disk in the case of letters, which is no difference there.
    """
    path = str(path)
    if os.path.islink(path):
        return ": it is a link that leads nowhere"
    if os.path.isfile(os.path.splitext(path)[0]):
        return f": without its last {Path(path).suffix} it does; write names without img_suffix"
    if "\\" in path:
        return ": its name has backslashes, as on Windows; write / and a path below the data folder"
    place, other_case = Path(path).anchor or ".", False
    for part in Path(path).parts[Path(path).is_absolute() :]:
        there = os.path.join(place, part)
        if not os.path.exists(there):
            try:
                names = _folded_names(place, os.stat(place).st_mtime_ns)
            except OSError:  # no folder, or one that may not be read
                return ""
            if _fold(part) not in names:
                return ""
            part, other_case = names[_fold(part)], True
        place = os.path.join(place, part)
    hint = ": the name there differs in upper and lower case; write it as it is on the disk"
    return hint if other_case else ""  # without, it is no file but a folder


def layout_problems(dataset: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for annotation file and folders that are missing or empty."""
    root = Path(dataset.get("data_root") or "")
    file = dataset.get("ann_file")
    if not isinstance(file or "", (str, Path)):
        several = "; write a data set for each of several files, in a ConcatDataset"
        yield str(file), f"is a {type(file).__name__}, no annotation file{several}"
    elif file and not (root / file).is_file():
        yield str(root / file), f"does not exist (annotation file){missing_hint(root / file)}"
    prefix = dataset.get("data_prefix") or ""
    folders = [prefix] if isinstance(prefix, str) else list(prefix.values())
    if dataset.get("split") and not any(folders):
        # mmpretrain's ImageNet finds its folder by the split; others download or know their own.
        folders = [dataset["split"]] if type_name(dataset).endswith("ImageNet") else []
    for folder in (root / folder for folder in folders if isinstance(folder, str)):
        if not folder.is_dir():
            yield str(folder), f"does not exist (data folder){missing_hint(folder)}"
        elif not any(folder.iterdir()):
            yield str(folder), "is empty (data folder)"


def evaluators_of(cfg: Config, loader: str) -> list[ConfigDict]:
    """Return the evaluators of a dataloader."""
    found = cfg.get(loader.replace("_dataloader", "_evaluator")) or []
    return [found] if isinstance(found, dict) else list(found)


def file_evaluators(cfg: Config, loader: str) -> list[ConfigDict]:
    """Return a dataloader's evaluators that read an annotation file themselves."""
    return [evaluator for evaluator in evaluators_of(cfg, loader) if evaluator.get("ann_file")]


def evaluator_problems(cfg: Config, loader: str) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for annotation files of a dataloader's evaluators that are missing."""
    for file in (evaluator["ann_file"] for evaluator in file_evaluators(cfg, loader)):
        if not Path(file).is_file():
            where = f"ann_file of {loader.partition('_')[0]}_evaluator"
            yield str(file), f"does not exist ({where}){missing_hint(file)}"
