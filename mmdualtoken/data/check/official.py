"""Counts of the well-known data sets, and what is missing from a copy."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mmdualtoken.data.check.base import DatasetCheck
from mmdualtoken.data.check.coco import name_list
from mmdualtoken.data.check.findings import ERROR


@dataclass(frozen=True)
class Official:
    """A published data set.

    Attributes:
        title: its name.
        kind: name of its class in the toolbox.
        root: name of the folder that it usually lies in.
        classes: number of classes.
        images: number of images of each split.
        files: how to tell the split: by this in the path of annotations or images.
    """

    title: str
    kind: str
    root: str
    classes: int
    images: dict[str, int]
    files: dict[str, str]


SETS = (
    Official(
        "COCO 2017",
        "mmdet.CocoDataset",
        "coco",
        80,
        {"train": 118287, "val": 5000},
        {"train": "instances_train2017.json", "val": "instances_val2017.json"},
    ),
    Official(
        "ADE20K (SceneParse150)",
        "mmseg.ADE20KDataset",
        "ADEChallengeData2016",
        150,
        {"train": 20210, "val": 2000},
        {"train": "images/training", "val": "images/validation"},
    ),
    Official(
        "ImageNet-1k",
        "mmpretrain.ImageNet",
        "imagenet",
        1000,
        {"train": 1281167, "val": 50000},
        {"train": "train", "val": "val"},
    ),
)
VAL_IMAGES_PER_CLASS = 50  # ImageNet
ADE_NAME = re.compile(r"ADE_(?:train|val)_(\d{8})")


def _recognise(check: DatasetCheck) -> tuple[Official, str] | None:
    """The published set that a config names, and its split; None for a set of the user's own."""
    kind = type(check.dataset)
    name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
    own = tuple(kind.METAINFO.get("classes", ())) if hasattr(kind, "METAINFO") else ()
    for official in SETS:
        if name != official.kind or check.class_names() != own:
            continue
        path = Path(check.main_file).as_posix().rstrip("/")
        for split, ending in official.files.items():
            if path.endswith("/" + ending) or f"/meta/{split}.txt" in path:
                return official, split
    return None


def compare(check: DatasetCheck) -> None:
    """Compare a data set with the published one that it seems to be, and say what is missing.

    Only the stock class with its own classes is compared. Under the usual folder name a missing
    image is an error, elsewhere a note: there it may be meant so.
    """
    found = _recognise(check)
    if not found or not check.samples or check.config.get("indices") is not None:
        return
    official, split = found
    expected = official.images[split]
    report = check.report
    if report.images == expected:
        report.notes.append(f"all {expected} images of {official.title}, {split}")
        return
    if official.root not in Path(check.main_file).parts:
        note = f"{report.images} images; {official.title}, {split}, has {expected}"
        report.notes.append(f"{note}. Fine if it is a set of your own.")
        return
    detail = f"{report.images} of {expected} images"
    if missing := _missing(check, split, expected):
        detail += f"; {missing}"
    remedy = (
        "unpack or download it again; a smaller set of your own belongs into a folder of another "
        f"name than {official.root!r}"
    )
    check.add(ERROR, f"differs from {official.title}, {split}", detail, remedy)


def _missing(check: DatasetCheck, split: str, expected: int) -> str:
    """What is missing, where names or counts per class tell."""
    names = [Path(sample["img_path"]).stem for sample in check.samples]
    numbers = {int(match[1]) for name in names if (match := ADE_NAME.fullmatch(name))}
    if numbers:
        absent = sorted(set(range(1, expected + 1)) - numbers)
        return "missing: " + name_list([f"ADE_{split}_{number:08d}" for number in absent])
    if check.unit == "images" and split == "val":
        folders = Counter(Path(sample["img_path"]).parent.name for sample in check.samples)
        short = {name: n for name, n in sorted(folders.items()) if n != VAL_IMAGES_PER_CLASS}
        if len(folders) > 1 and short:
            return "folders without 50 images: " + name_list(
                [f"{k} ({n})" for k, n in short.items()]
            )
    return ""
