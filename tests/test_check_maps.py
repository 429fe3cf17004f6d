"""Each fault of label maps: what the check says, and what mmseg does."""

from pathlib import Path

import numpy as np
import pytest
from data_faults import (
    SEGMENTATION_IMAGE,
    check,
    config,
    expect,
    expect_clean,
    train_step,
    write_data,
)
from PIL import Image

from mmdualtoken.data.check import ERROR, WARNING, check_config

MAP = "data/ade/annotations/training/ADE_train_00000001.png"
IMAGES = "data/ade/images/training"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working directory with segmentation data."""
    monkeypatch.chdir(tmp_path)
    write_data("segmentation")


# The narrow config has 5 classes and reduce_zero_label=True.


def corner(value, dtype=np.uint8):
    """Set a corner of the map."""

    def write(labels):
        labels = labels.astype(dtype)
        labels[:20, :20] = value
        return labels

    return write


def palette(labels):
    image = Image.fromarray(labels)
    image.putpalette([value for value in range(256) for _ in range(3)])
    return image


MAPS = {
    "largest label": (corner(5), None, ""),
    "label 0": (corner(0), None, ""),
    "label 255": (corner(255), None, ""),
    "beyond the largest": (corner(6), ERROR, "labels out of range: 6 (400 px); allowed 1 to 5"),
    "label 254": (corner(254), ERROR, "out of range: 254 (400 px)"),
    "16 bits": (corner(5, np.uint16), None, ""),
    "beyond 8 bits": (corner(261, np.uint16), ERROR, "8 bits cannot hold: values 1 to 261"),
    "palette": (palette, None, ""),
    "colour": (lambda labels: np.dstack([labels] * 3), ERROR, "a colour image, not a map"),
    "taller": (lambda labels: np.pad(labels, ((0, 9), (0, 0))), ERROR, "another size than"),
    "transposed": (lambda labels: labels.T.copy(), ERROR, "another size than its image"),
    "ignored": (lambda labels: labels * 0, WARNING, "has ignored labels only"),
}


@pytest.mark.parametrize("name", MAPS)
def test_map(name):
    change, severity, words = MAPS[name]
    labels = change(np.array(Image.open(MAP)))
    (labels if isinstance(labels, Image.Image) else Image.fromarray(labels)).save(MAP)
    if severity is None:
        expect_clean(config("segmentation"))
        assert train_step(config("segmentation"))["decode.loss_ce"].isfinite()
    else:
        expect(config("segmentation"), severity, MAP, words, False)


@pytest.mark.parametrize("name", ["beyond the largest", "label 254", "colour"])
def test_map_that_stops_the_model(name):
    Image.fromarray(MAPS[name][0](np.array(Image.open(MAP)))).save(MAP)
    with pytest.raises((IndexError, RuntimeError)):
        train_step(config("segmentation"))


def test_labels_without_reduction():
    """As in sets with labels 0 to 10 and 255 for ignored: 0 is a class, 5 is too many."""
    loaders = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    settings = dict(reduce_zero_label=False, pipeline=[*loaders, dict(type="PackSegInputs")])
    for path in Path("data/ade/annotations/training").iterdir():
        Image.fromarray(np.array(Image.open(path)) - 1).save(path)
    expect_clean(config("segmentation", **settings))
    Image.fromarray(MAPS["largest label"][0](np.array(Image.open(MAP)))).save(MAP)
    words = "out of range: 5 (400 px); allowed 0 to 4, ignored 255 (reduce_zero_label=False)"
    expect(config("segmentation", **settings), ERROR, MAP, words, False)


def test_reduction_that_leaves_the_last_class_empty():
    """With labels from 0, reduce_zero_label=True moves all labels and breaks no rule."""
    for path in Path("data/ade/annotations/training").iterdir():
        Image.fromarray(np.array(Image.open(path)) - 1).save(path)
    (report,) = check_config(config("segmentation"), ["train"])
    (finding,) = report.findings
    assert finding.reason == "classes have no pixel: star" and report.classes["triangle"] > 0
    assert "if the labels count from 0, set reduce_zero_label=False" in finding.remedy


def test_jpeg_map():
    with Image.open(MAP) as labels:
        labels.save(MAP, "JPEG")
    expect(config("segmentation"), ERROR, MAP, "is a JPEG, which does not keep labels", False)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: None, "does not exist"),
        (lambda content: b"", "is empty"),
        (lambda content: content[:8], "is no image"),
        (lambda content: content[:-40], "is cut off or damaged"),
    ],
)
def test_broken_map(change, words):
    content = change(Path(MAP).read_bytes())
    Path(MAP).unlink()
    if content is not None:
        Path(MAP).write_bytes(content)
    expect(config("segmentation"), ERROR, MAP, words, True)


def test_map_of_a_turned_image():
    tags = Image.Exif()
    tags[0x0112] = 6
    with Image.open(SEGMENTATION_IMAGE) as image:
        assert image.width != image.height
        image.save(SEGMENTATION_IMAGE, exif=tags)
    words = "(width x height); EXIF orientation 6"
    expect(config("segmentation"), ERROR, MAP, words, False)


def test_one_pixel():
    """mmseg's LoadAnnotations squeezes such a map to a number."""
    Image.new("RGB", (1, 1)).save(SEGMENTATION_IMAGE)
    Image.new("L", (1, 1)).save(MAP)
    words = "the loading part of the pipeline fails on it: TypeError"
    expect(config("segmentation"), ERROR, SEGMENTATION_IMAGE, words, True)


def test_map_without_image():
    Path(SEGMENTATION_IMAGE).unlink()
    expect(config("segmentation"), WARNING, MAP, "has no image", False)


def test_other_suffix():
    cfg = config("segmentation", img_suffix=".tif")
    words = "holds no image: no file ends in '.tif'; ADE_train_00000001.jpg"
    expect(cfg, ERROR, IMAGES, words, True)


def test_folder_is_empty_or_missing():
    for path in Path(IMAGES).iterdir():
        path.unlink()
    expect(config("segmentation"), ERROR, IMAGES, "is empty (data folder)", True)
    Path(IMAGES).rmdir()
    expect(config("segmentation"), ERROR, IMAGES, "does not exist (data folder)", True)


def test_list_of_names():
    names = ["ADE_train_00000001", "ADE_train_00000001", "ADE_train_9"]
    Path("data/ade/list.txt").write_text("\n".join(names))
    cfg = config("segmentation", ann_file="list.txt")
    expect(cfg, ERROR, f"{IMAGES}/ADE_train_9.jpg", "does not exist", True)
    assert (WARNING, SEGMENTATION_IMAGE, "image is listed more than once: 2 times") in check(cfg)
