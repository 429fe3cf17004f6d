"""The small real sets, and the parts of their training data that choose a learning rate.

The folder that MMDUALTOKEN_DATA names is only read. What is made of it (CIFAR-10's unpacked photos,
lists of the parts) goes to `prepared`.
"""

import json
import os
import zipfile
from pathlib import Path

from mmengine.config import Config

from mmdualtoken.errors import InputError

VARIABLE = "MMDUALTOKEN_DATA"
#: Parts: 'train' and 'val' are reported; 'fit' and 'select' divide 'train' for the learning rate.
PARTS = ("train", "val", "fit", "select")
SELECT = 4  # one image in so many is for selection


def folder() -> Path:
    """The folder of the data sets.

    Raises:
        InputError: the variable is not set, or names no folder.
    """
    value = os.environ.get(VARIABLE)
    if not value or not Path(value).is_dir():
        raise InputError(
            f"{VARIABLE} is {value!r}; it must name the folder that holds cifar10/, bccd/, nuclei/ "
            "and camvid/ (docs/learning.md says where they come from)."
        )
    return Path(value).resolve()


def divide(names: list[str]) -> tuple[list[str], list[str]]:
    """Names of 'fit' and 'select', the end of the sorted list: neighbours may be of one film."""
    names = sorted(names)
    cut = len(names) - len(names) // SELECT
    return names[:cut], names[cut:]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _prepare_coco(source: Path, target: Path) -> None:
    content = json.loads((source / "annotations" / "train.json").read_text())
    by_name = {image["file_name"]: image for image in content["images"]}
    for part, names in zip(("fit", "select"), divide(list(by_name)), strict=True):
        images = [by_name[name] for name in names]
        ids = {image["id"] for image in images}
        kept = [a for a in content["annotations"] if a["image_id"] in ids]
        _write(
            target / f"{part}.json", json.dumps({**content, "images": images, "annotations": kept})
        )


def _prepare_maps(source: Path, target: Path) -> None:
    names = [p.stem for p in (source / "images" / "training").glob("*.jpg")]
    for part, chosen in zip(("fit", "select"), divide(names), strict=True):
        _write(target / f"{part}.txt", "\n".join(chosen) + "\n")


def _prepare_classes(source: Path, target: Path) -> None:
    for split in ("train", "val"):
        with zipfile.ZipFile(source / f"{split}.zip") as file:
            names = sorted(n for n in file.namelist() if n.endswith(".jpg"))
            file.extractall(target / split, names)
        classes = sorted({name.split("/")[0] for name in names})
        lines: dict[str, list[str]] = dict(train=[], val=[], fit=[], select=[])
        for label, cls in enumerate(classes):
            own = [name for name in names if name.startswith(f"{cls}/")]
            parts = (
                dict(zip(("fit", "select"), divide(own), strict=True)) if split == "train" else {}
            )
            for part, chosen in {split: own, **parts}.items():
                lines[part] += [f"{name} {label}" for name in chosen]
        for part in (split, "fit", "select") if split == "train" else (split,):
            _write(target / f"{part}.txt", "\n".join(lines[part]) + "\n")


PREPARE = dict(
    cifar10=_prepare_classes,
    bccd=_prepare_coco,
    nuclei=_prepare_coco,
    coco2k=_prepare_coco,
    camvid=_prepare_maps,
    voc_animals=_prepare_maps,
)


def prepare(name: str, prepared: Path) -> Path:
    """Write the parts of the data set `name` below `prepared`, unless they are there.

    Raises:
        InputError: the data set is missing.
    """
    source, target = folder() / name, prepared / name
    if not source.is_dir():
        raise InputError(f"{source} is no folder: {VARIABLE}={folder()} lacks the set {name}.")
    done = target / "done"
    if not done.is_file():
        PREPARE[name](source, target)
        _write(done, f"{source}\n")
    return target


def _loader_of(name: str, part: str, source: Path, target: Path) -> dict:
    """Changes of a loader's dataset, so that it reads this part."""
    split = "val" if part == "val" else "train"
    listed = part in ("fit", "select")
    if name == "cifar10":
        return dict(data_root=str(target), ann_file=f"{part}.txt", data_prefix=split)
    if PREPARE[name] is _prepare_maps:
        split = dict(train="training", val="validation")[split]
        prefix = dict(img_path=f"images/{split}", seg_map_path=f"annotations/{split}")
        listing = str(target / f"{part}.txt") if listed else ""
        return dict(data_root=str(source), data_prefix=prefix, ann_file=listing)
    file = target / f"{part}.json" if listed else source / "annotations" / f"{part}.json"
    return dict(data_root=f"{source}/", ann_file=str(file), data_prefix=dict(img=f"{split}/"))


def use(cfg: Config, name: str, target: Path, train: str, val: str) -> None:
    """Let the config train on the part `train` and evaluate on the part `val`."""
    source = folder() / name
    for loader, part in (("train", train), ("val", val), ("test", val)):
        changes = _loader_of(name, part, source, target)
        cfg[f"{loader}_dataloader"].dataset.update(changes)
    if "ann_file" in cfg.val_evaluator:
        for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
            evaluator.ann_file = cfg.val_dataloader.dataset.ann_file
