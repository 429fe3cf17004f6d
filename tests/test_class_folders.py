"""Folders of classes: a class must have the same label in training and validation."""

import shutil

import pytest
from helpers import log_lines
from mmengine.config import ConfigDict
from tasks import TASKS

from mmdualtoken.data.class_folders import check_class_folders, class_folders
from mmdualtoken.errors import InputError

CONFIG = TASKS["classification"][0]


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return ConfigDict(type="CustomDataset", data_root=str(root.parent), data_prefix=root.name)


def test_the_same_folders(tmp_path):
    sets = [folders(tmp_path / split, "a", "b") for split in ("train", "val")]
    with log_lines() as lines:
        check_class_folders(sets)
    assert lines == []


def test_last_classes_missing_is_a_warning(tmp_path):
    sets = [folders(tmp_path / "train", "a", "b", "c"), folders(tmp_path / "val", "a")]
    with log_lines() as lines:
        check_class_folders(sets)
    (line,) = lines
    assert line.startswith(f"{tmp_path}/val has no folders for the last classes")
    assert line.endswith(": b, c")


@pytest.mark.parametrize(
    "names, label, there",
    [
        (["b", "c"], "Label 0 is 'b'", "but 'a' in"),
        (["a", "c"], "Label 1 is 'c'", "but 'b' in"),
        (["a", "b", "c", "d"], "Label 3 is 'd'", "but no class in"),
    ],
)
def test_other_labels_are_refused(names, label, there, tmp_path):
    sets = [folders(tmp_path / "train", "a", "b", "c"), folders(tmp_path / "val", *names)]
    with pytest.raises(InputError) as caught:
        check_class_folders(sets)
    assert label in str(caught.value) and there in str(caught.value)


def test_which_data_sets_have_folders(tmp_path):
    own = folders(tmp_path / "train", "b", "a")
    assert class_folders(own) == (tmp_path / "train", ["a", "b"])
    imagenet = ConfigDict(type="mmpretrain.ImageNet", data_root=str(tmp_path), split="train")
    assert class_folders(imagenet) == (tmp_path / "train", ["a", "b"])
    nested = ConfigDict(own, data_prefix=dict(img_path="train"))
    assert class_folders(nested) == (tmp_path / "train", ["a", "b"])
    for change in (dict(ann_file="x.txt"), dict(with_label=False), dict(type="CIFAR10")):
        assert class_folders(ConfigDict(own, **change)) is None
    assert class_folders(ConfigDict(own, data_prefix="nowhere")) is None
    check_class_folders([])
    check_class_folders([own])


def test_by_the_tool(project, tool):
    """Without the check, training would go on and measure the accuracy of other classes."""
    source = (project / "data").resolve()
    (project / "data").unlink()
    shutil.copytree(source / "imagenet", project / "data" / "imagenet")
    shutil.rmtree("data/imagenet/val/disc")
    status, printed = tool("train", CONFIG)
    assert status == 2 and "Traceback" not in printed
    assert "Label 0 is 'square' in data/imagenet/val, but 'disc' in data/imagenet/train" in printed
