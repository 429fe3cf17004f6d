"""Counts of the well-known data sets, and the images that a copy lacks."""

import re
from collections import Counter
from pathlib import Path

from mmdualtoken.data.check.dataset import DatasetCheck
from mmdualtoken.data.check.findings import ERROR, name_list

COCO = ("mmdet.CocoDataset", "COCO 2017", "coco")
ADE = ("mmseg.ADE20KDataset", "ADE20K (SceneParse150)", "ADEChallengeData2016")
IMAGENET = ("mmpretrain.ImageNet", "ImageNet-1k", "imagenet")
#: Class in the toolbox, title, usual folder, split, number of images, and the end of the path of
#: its annotations or images.
SETS = [
    (*COCO, "train", 118287, "instances_train2017.json"),
    (*COCO, "val", 5000, "instances_val2017.json"),
    (*ADE, "train", 20210, "images/training"),
    (*ADE, "val", 2000, "images/validation"),
    (*IMAGENET, "train", 1281167, "train"),
    (*IMAGENET, "val", 50000, "val"),
]
VAL_IMAGES_PER_CLASS = 50  # ImageNet
ADE_NAME = re.compile(r"ADE_(?:train|val)_(\d{8})")


def compare(check: DatasetCheck) -> None:
    """Compare a data set with the published one that it seems to be.

    Only the stock class with its own classes is compared. Under the usual folder name a missing
    image is an error, elsewhere a note: there it may be meant so.
    """
    cls, path = type(check.dataset), Path(check.main_file)
    name = f"{cls.__module__.partition('.')[0]}.{cls.__name__}"
    own = tuple(getattr(cls, "METAINFO", {}).get("classes", ()))
    rows = [row for row in SETS if row[0] == name and _lies_at(path, row[3], row[5])]
    partial = not check.samples or check.config.get("indices") is not None
    if not rows or partial or check.class_names() != own:
        return
    _, title, root, split, expected, _ = rows[0]
    images, notes = len(check.samples), check.report.notes
    if images == expected:
        notes.append(f"all {expected} images of {title}, {split}")
    elif root not in path.parts:
        notes.append(f"{images} images; {title}, {split}, has {expected}. Fine for your own set.")
    else:
        detail = f"{images} of {expected} images{_missing(check, split, expected)}"
        remedy = (
            "unpack or download it again; put a smaller set of your own into a folder with another "
            f"name than {root!r}"
        )
        check.add(ERROR, f"differs from {title}, {split}", detail, remedy)


def _lies_at(path: Path, split: str, end: str) -> bool:
    return f"/{path.as_posix()}".endswith(f"/{end}") or path.match(f"meta/{split}.txt")


def _missing(check: DatasetCheck, split: str, expected: int) -> str:
    """Name the missing images, where file names or counts per class show them."""
    paths = [Path(sample["img_path"]) for sample in check.samples]
    numbers = {int(match[1]) for path in paths if (match := ADE_NAME.fullmatch(path.stem))}
    if numbers:
        absent = sorted(set(range(1, expected + 1)) - numbers)
        return "; missing: " + name_list(f"ADE_{split}_{number:08d}" for number in absent)
    if check.unit == "images" and split == "val":
        folders = Counter(path.parent.name for path in paths)
        short = {name: n for name, n in sorted(folders.items()) if n != VAL_IMAGES_PER_CLASS}
        if len(folders) > 1 and short:
            return "; folders without 50 images: " + name_list(
                f"{k} ({n})" for k, n in short.items()
            )
    return ""
