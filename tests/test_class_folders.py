"""Folders of classes: a class must have the same label in training and validation."""

import shutil

import pytest
from data_faults import config, write_data
from helpers import log_lines

from mmdualtoken.data.check import ERROR, WARNING, check_config, check_data
from mmdualtoken.errors import InputError


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


@pytest.fixture(autouse=True)
def data(here):
    write_data("classification")


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
        (
            lambda: add("z"),
            "4 to 'z'",
            "no",
        ),
    ],
)
def test_other_labels_are_refused(change, label, there):
    """Otherwise training would measure the accuracy of other classes."""
    change()
    error, _, findings = looks(config("classification"))
    finding = next(f for f in findings if f.kind.startswith("gives label"))
    assert (
        finding.severity == ERROR
        and error == finding.sentence()
        and finding.file == "data/imagenet/val"
    )
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
    assert "label 0 to 'square'" in looks(cfg)[0]


@pytest.mark.parametrize("settings", [dict(ann_file="list.txt"), dict(with_label=False)], ids=str)
def test_labels_that_do_not_come_from_folders(settings):
    remove("disc")
    with open("data/imagenet/list.txt", "w") as file:
        file.write("square/square_00000002.jpg 1\n")
    cfg = config("classification")
    cfg.val_dataloader.dataset.update(settings)
    assert looks(cfg)[0] == ""
