"""Each fault of class folders and lists of files: what the check says, and what mmpretrain does."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_faults import (
    CLASSIFICATION_IMAGE,
    check,
    config,
    expect,
    quick_error,
    train_step,
    write_data,
)
from helpers import log_lines
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmdualtoken.data.check import ERROR, WARNING, check_config, check_data
from mmdualtoken.errors import InputError

CLASSES = Path("data/imagenet/train")


@pytest.fixture(autouse=True)
def data(here):
    write_data("classification")


# The narrow config has 4 classes.


def write(name, text=""):
    path = CLASSES.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def flatten():
    for path in list(CLASSES.glob("*/*.jpg")):
        path.rename(CLASSES / path.name)
    for path in CLASSES.glob("*/"):
        if path.is_dir():
            path.rmdir()


def empty_star():
    for path in CLASSES.glob("star/*"):
        path.unlink()


def link_to_nowhere():
    Path(CLASSIFICATION_IMAGE).unlink()
    os.symlink("/nowhere", CLASSIFICATION_IMAGE)


A, B = (f"{CLASSES}/{name}" for name in ("disc/a", "b.jpg"))
FOLDERS = {
    "text": (lambda: write("train/disc/a"), WARNING, A, "no image by its name"),
    "no class": (lambda: shutil.copy(CLASSIFICATION_IMAGE, B), WARNING, B, "class"),
    "empty class": (empty_star, WARNING, f"{CLASSES}/star", "no image"),
    "too many": (lambda: os.mkdir(CLASSES / "z"), ERROR, str(CLASSES), "head has num_classes=4"),
    "hidden": (lambda: os.mkdir(CLASSES / ".z"), ERROR, f"{CLASSES}/.z", "hidden"),
    "link": (link_to_nowhere, ERROR, CLASSIFICATION_IMAGE, "leads nowhere"),
    "flat": (flatten, ERROR, str(CLASSES), "has no class folders"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name):
    change, severity, file, words = FOLDERS[name]
    change()
    expect(config("classification"), severity, file, words, name == "flat")


@pytest.mark.parametrize(
    "classes, words, stops",
    [
        ("abcde", "another number of folders than of classes: 4 folders, 5 classes", True),
        (("disc", "square", "triangle", "star"), "another order than their folders", False),
        (("Square", "Disc", "s3", "s4"), "another order than their folders", False),
    ],
)
def test_folders_and_names(classes, words, stops):
    cfg = config("classification", metainfo=dict(classes=tuple(classes)))
    expect(cfg, ERROR, str(CLASSES), words, stops)


LISTS = {
    "too large": ("X 4", "label is out of range: label 4", False),
    "negative": ("X -1", "label is out of range: label -1", False),
    "no label": ("X", "line is no file name and label: line 1", True),
    "name of a class": ("X disc", "line is no file name and label: line 1: 'disc", True),
    "empty": ("", "lists no image", True),
    "blank line": ("X 0\n\nX 0", "line is no file name and label: line 2", True),
}


@pytest.mark.parametrize("name", LISTS)
def test_list(name):
    text, words, stops = LISTS[name]
    write("list.txt", text.replace("X", "disc/disc_00000001.jpg"))
    cfg = config("classification", ann_file="list.txt")
    expect(cfg, ERROR, "data/imagenet/list.txt", words, stops)


def test_list_with_other_labels():
    write("list.txt", "disc/disc_00000001.jpg 0\ndisc/disc_00000001.jpg 1\n")
    cfg = config("classification", ann_file="list.txt")
    expect(cfg, ERROR, CLASSIFICATION_IMAGE, "is listed with different labels: 0, 1", False)


def test_label_that_stops_the_model():
    for label in (4, -1):
        write("list.txt", f"disc/disc_00000001.jpg {label}\n" * 2)
        with pytest.raises(IndexError):
            train_step(config("classification", ann_file="list.txt"))


QUICK = {
    "label": ("disc/disc_00000001.jpg 4\n", "utf-8", "label is out of range: label 4"),
    "BOM": ("disc/disc_00000001.jpg 0\n", "utf-8-sig", "begins with a byte order mark"),
    "GBK": ("disc/\u5f62.jpg 0\n", "gbk", "is not encoded in UTF-8"),
    "backslash": ("disc\\disc_00000001.jpg 0\n", "utf-8", "its name has backslashes"),
    "case": ("disc/DISC_00000001.jpg 0\n", "utf-8", "differs in upper and lower case"),
}


@pytest.mark.parametrize("name", QUICK)
def test_list_before_training(name):
    """The quick look of train.py reads the list; the whole check says the same."""
    text, encoding, words = QUICK[name]
    (CLASSES.parent / "list.txt").write_bytes(text.encode(encoding))
    cfg = config("classification", ann_file="list.txt")
    assert words in quick_error(cfg)
    assert any(words in reason for severity, _, reason in check(cfg) if severity == ERROR)


def test_mixed_labels_of_another_number():
    """Mixup writes labels as vectors, as long as data_preprocessor.num_classes says."""
    cfg = config("classification")
    cfg.model.data_preprocessor.num_classes = 10
    check_data(cfg, "train_dataloader")  # without Mixup it has no effect
    cfg.model.head.loss = dict(type="CrossEntropyLoss", use_soft=True)
    cfg.model.train_cfg = dict(augments=dict(type="Mixup", alpha=0.2))
    assert "model.data_preprocessor has num_classes=10" in quick_error(cfg)
    with pytest.raises(RuntimeError, match="size of tensor"):
        train_step(cfg)


def test_folders_of_two_splits():
    """mmpretrain numbers the folders of each split: without one, all labels after it move."""
    shutil.rmtree("data/imagenet/val/disc")
    first = DATASETS.build(config("classification").val_dataloader.dataset)[0]["data_samples"]
    assert "square" in first.img_path and first.gt_label.item() == 0  # in training, it is 1


def test_fewer_classes_than_the_head():
    cfg = config("classification")
    cfg.model.head.num_classes = 1000
    expect(
        cfg, WARNING, str(CLASSES), "model counts others: model.head has num_classes=1000", False
    )


def test_images_in_memory(monkeypatch):
    """CIFAR10 hands out arrays: no file to look at, the pipeline is run."""
    images = [np.zeros((32, 32, 3), np.uint8), "no array"]
    samples = [dict(img=image, gt_label=0) for image in images]
    monkeypatch.setattr("mmpretrain.datasets.CIFAR10.load_data_list", lambda self: samples)
    cfg = config("classification", type="CIFAR10", data_root="data/imagenet", data_prefix="")
    cfg.train_dataloader.dataset.split = "train"
    resize = dict(type="Resize", scale=(64, 64))
    cfg.train_dataloader.dataset.pipeline = [resize, dict(type="PackInputs")]
    cfg.model.head.num_classes = 10
    (report,) = check_config(cfg, ["train"])
    (finding,) = report.findings
    assert (report.images, finding.severity) == (2, ERROR)
    assert finding.line().startswith("data/imagenet/ sample 1: the pipeline fails on it: ")


def test_general_check():
    """A data set that reads annotations in its own way: mmpretrain's own JSON here."""
    Path("data/own.json").write_text(
        '{"metainfo": {"classes": ["a"]}, "data_list": ['
        '{"img_path": "disc_00000001.jpg", "gt_label": 0}, {"img_path": "b.jpg", "gt_label": 0}]}'
    )
    cfg = Config(config("classification").to_dict())
    prefix = dict(img_path="imagenet/train/disc")
    cfg.train_dataloader.dataset.update(
        type="BaseDataset", data_root="data", ann_file="own.json", data_prefix=prefix
    )
    found = check(cfg)
    assert found == [(ERROR, "data/imagenet/train/disc/b.jpg", "does not exist")]


# A class must have the same label in training and validation.


def rename(old, new):
    shutil.move(f"data/imagenet/val/{old}", f"data/imagenet/val/{new}")


def remove(name):
    shutil.rmtree(f"data/imagenet/val/{name}")


def add(name):
    shutil.copytree("data/imagenet/val/disc", f"data/imagenet/val/{name}")


def looks(cfg):
    """The quick look's error and log, and the whole check's findings about validation."""
    with log_lines() as lines:
        try:
            check_data(cfg, "train_dataloader", "val_dataloader")
            error = ""
        except InputError as caught:
            error = str(caught)
    logged = [line for line in lines if "data/imagenet" in line]
    return error, logged, check_config(cfg, ["train", "val"])[1].findings


def test_the_same_folders():
    assert looks(config("classification")) == ("", [], [])


def test_last_classes_missing_is_a_warning():
    """All labels agree; the validation lacks some."""
    for name in ("star", "triangle"):
        remove(name)
    error, (line,), findings = looks(config("classification"))
    finding = next(f for f in findings if f.kind.startswith("has no folders"))
    assert error == "" and finding.severity == WARNING
    assert line == finding.line() and finding.file == "data/imagenet/val"
    assert "last classes of data/imagenet/train: star, triangle" in line


@pytest.mark.parametrize(
    "change, label, there",
    [
        (lambda: remove("disc"), "label 0 to 'square'", "'disc'"),
        (lambda: remove("square"), "label 1 to 'star'", "'square'"),
        (lambda: rename("triangle", "zebra"), "label 3 to 'zebra'", "'triangle'"),
        (lambda: add("z"), "4 to 'z'", "no"),
    ],
)
def test_other_labels_are_refused(change, label, there):
    """Otherwise training would measure the accuracy of other classes."""
    change()
    error, _, findings = looks(config("classification"))
    finding = next(f for f in findings if f.kind.startswith("gives label"))
    assert (finding.severity, finding.file) == (ERROR, "data/imagenet/val")
    assert error == finding.sentence()
    assert label in error and f"but data/imagenet/train to {there}" in error


@pytest.mark.parametrize(
    "settings",
    [
        dict(type="mmpretrain.CustomDataset"),
        dict(type="ImageNet", split="val", data_prefix="", metainfo=dict(classes=("a", "b", "c"))),
        dict(data_prefix=dict(img_path="val")),
    ],
    ids=str,
)
def test_folders_of_each_kind_of_config(settings):
    remove("disc")
    cfg = config("classification")
    cfg.val_dataloader.dataset.update(settings)
    assert any("label 0 to 'square'" in finding.sentence() for finding in looks(cfg)[2])


@pytest.mark.parametrize("settings", [dict(ann_file="list.txt"), dict(with_label=False)], ids=str)
def test_labels_that_do_not_come_from_folders(settings):
    remove("disc")
    with open("data/imagenet/list.txt", "w") as file:
        file.write("square/square_00000002.jpg 1\n")
    cfg = config("classification")
    cfg.val_dataloader.dataset.update(settings)
    assert looks(cfg)[0] == ""
