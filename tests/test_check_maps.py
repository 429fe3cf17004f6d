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
    quick_error,
    toolbox_stops,
    train_step,
    write_data,
)
from helpers import log_lines
from mmcv.transforms import BaseTransform
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmdualtoken.data.check import ERROR, WARNING, check_config, check_data, segmentation

MAP = "data/ade/annotations/training/ADE_train_00000001.png"
IMAGES = "data/ade/images/training"


@pytest.fixture(autouse=True)
def data(here):
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
    rewrite(lambda labels: labels - 1)
    expect_clean(config("segmentation", **settings))
    Image.fromarray(MAPS["largest label"][0](np.array(Image.open(MAP)))).save(MAP)
    words = "out of range: 5 (400 px); allowed 0 to 4, ignored 255 (reduce_zero_label=False)"
    expect(config("segmentation", **settings), ERROR, MAP, words, False)


def test_reduction_that_leaves_the_last_class_empty():
    """With labels from 0, reduce_zero_label=True moves all labels and breaks no rule."""
    rewrite(lambda labels: labels - 1)
    (report,) = check_config(config("segmentation"), ["train"])
    (finding,) = report.findings
    assert finding.reason == "classes have no pixel: star" and report.classes["triangle"] > 0
    assert "if the labels count from 0, set reduce_zero_label=False" in finding.remedy


def rewrite(change, split="training"):
    """Change all maps of a split."""
    for path in Path(f"data/ade/annotations/{split}").iterdir():
        Image.fromarray(change(np.array(Image.open(path)))).save(path)


def binary(reduce_zero_label, **head):
    """A config of two classes."""
    loaders = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=reduce_zero_label),
    ]
    resize = dict(type="Resize", scale=(64, 64), keep_ratio=False)
    cfg = config(
        "segmentation",
        reduce_zero_label=reduce_zero_label,
        metainfo=dict(classes=("background", "object"), palette=[[0, 0, 0], [255, 0, 0]]),
        pipeline=[*loaders, resize, dict(type="PackSegInputs")],
    )
    cfg.model.decode_head.update({"num_classes": 2, **head})
    return cfg


ONE_OUTPUT = dict(out_channels=1, loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=True))
OBJECTS = {
    "0 and 255": (255, False, "has one label that counts: 0, 255 in 4 of 4 maps"),
    "0 and 255, 0 ignored": (255, True, "has no label that counts: 255 in 4 of 4 maps"),
    "0 and 1, 0 ignored": (1, True, "has one label that counts: 1, 255 in 4 of 4 maps"),
    "nothing": (0, False, "has one label that counts: 0 in 4 of 4 maps"),
    "0 and 1": (1, False, None),
}


@pytest.mark.parametrize("head", [{}, ONE_OUTPUT], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("name", OBJECTS)
def test_masks_of_one_object(name, head):
    """255 is ignored, so that an object of 255 is never learnt and nothing stops."""
    value, reduce_zero_label, words = OBJECTS[name]
    rewrite(lambda labels: np.where(labels > 1, value, 0).astype(np.uint8))
    cfg = binary(reduce_zero_label, **head)
    if words is None:
        expect_clean(cfg)
        check_data(cfg, "train_dataloader")
        return
    assert (ERROR, "data/ade/images/training", words) in [
        (severity, file, reason.partition(";")[0]) for severity, file, reason in check(cfg)
    ]
    assert words in quick_error(cfg)
    assert not toolbox_stops(cfg)


def test_head_of_one_class_and_one_output():
    """mmseg's sigmoid loss takes the labels 0 and 1 there."""
    rewrite(lambda labels: (labels > 1).astype(np.uint8))
    cfg = binary(False, **ONE_OUTPUT, num_classes=1)
    expect_clean(cfg)
    assert train_step(cfg)["decode.loss_ce"].isfinite()


def test_some_of_many_maps(monkeypatch):
    """The quick look reads some maps, spread over all; it then warns of what may be chance."""
    monkeypatch.setattr(segmentation, "QUICK_MAPS", 2)
    rewrite(lambda labels: np.where(labels > 1, 255, 0).astype(np.uint8))
    with log_lines() as lines:
        check_data(binary(False), "train_dataloader")
    assert any("has one label that counts: 0, 255 in 2 of 4 maps" in line for line in lines)
    third = sorted(Path("data/ade/annotations/training").iterdir())[2]
    Image.fromarray(np.full_like(np.array(Image.open(third)), 7)).save(third)
    assert "labels out of range: 7" in quick_error(binary(False))


def test_one_label_in_evaluation():
    """A small set may be so; the model has learnt from another."""
    rewrite(lambda labels: np.where(labels > 1, 255, 0).astype(np.uint8), "validation")
    cfg = binary(False)
    cfg.val_dataloader.dataset.update(
        reduce_zero_label=False,
        metainfo=cfg.train_dataloader.dataset.metainfo,
        pipeline=cfg.train_dataloader.dataset.pipeline,
    )
    found = [f for f in check(cfg, "val") if "one label" in f[2]]
    assert [f[0] for f in found] == [WARNING]


def test_heads():
    """An auxiliary head counts the classes, too; one of edges does not."""
    cfg = config("segmentation")
    heads = [{**cfg.model.decode_head, "num_classes": n} for n in (5, 4, 6)]
    heads[2]["type"] = "STDCHead"
    cfg.model.auxiliary_head = heads
    words = "the model counts others: model.auxiliary_head.1 has num_classes=4. Set"
    assert words in quick_error(cfg)
    cfg.model.auxiliary_head = heads[::2]
    expect_clean(cfg)
    cfg.model.decode_head.num_classes = cfg.model.auxiliary_head[0].num_classes = 150
    assert "has num_classes=150" in quick_error(cfg)  # outputs that are never learnt


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
    words = "holds no image: no file ends in '.tif'; there are ADE_train_00000001.jpg"
    expect(cfg, ERROR, IMAGES, words, True)


def test_suffix_in_capitals():
    """mmseg trains without that image; the log of the training says so."""
    extra = Path(IMAGES, "ADE_train_00000009.JPG")
    extra.write_bytes(Path(SEGMENTATION_IMAGE).read_bytes())
    expect(config("segmentation"), WARNING, str(extra), "is left out", False)
    with log_lines() as lines:
        check_data(config("segmentation"), "train_dataloader")
    assert any(str(extra) in line and "img_suffix='.jpg'" in line for line in lines), lines


def test_folder_is_empty_or_missing():
    for path in Path(IMAGES).iterdir():
        path.unlink()
    expect(config("segmentation"), ERROR, IMAGES, "is empty (data folder)", True)
    Path(IMAGES).rmdir()
    expect(config("segmentation"), ERROR, IMAGES, "does not exist (data folder)", True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_list_written_on_windows(encoding):
    Path("data/ade/list.txt").write_text("ADE_train_00000001\n", encoding=encoding)
    words = {"utf-8-sig": "begins with a byte order mark", "utf-16": "is not encoded in UTF-8"}
    assert words[encoding] in quick_error(config("segmentation", ann_file="list.txt"))


def test_list_of_names():
    names = ["ADE_train_00000001", "ADE_train_00000001", "ADE_train_9"]
    Path("data/ade/list.txt").write_text("\n".join(names))
    cfg = config("segmentation", ann_file="list.txt")
    expect(cfg, ERROR, f"{IMAGES}/ADE_train_9.jpg", "does not exist", True)
    assert (WARNING, SEGMENTATION_IMAGE, "image is listed more than once: 2 times") in check(cfg)


class LoadColours(LoadAnnotations):
    """A user's: maps of colours, the red of which is the label."""

    def _load_seg_map(self, results):
        results["gt_seg_map"] = np.array(Image.open(results["seg_map_path"]))[..., 0]
        results["seg_fields"].append("gt_seg_map")


class LoadArray(BaseTransform):
    """A user's: images that no toolbox reads."""

    def transform(self, results):
        image = np.load(results["img_path"])
        size = image.shape[:2]
        return {**results, "img": image, "img_shape": size, "ori_shape": size}


class Renumber(BaseTransform):
    """A user's: 6 is written for 5."""

    def transform(self, results):
        results["gt_seg_map"][results["gt_seg_map"] == 5] = 4
        return results


def test_maps_and_images_that_only_the_user_reads():
    """Neither the whole check nor the quick look judges files that own transforms read."""
    cfg = config("segmentation", img_suffix=".npy")
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[0], pipeline[1] = dict(type=LoadArray), dict(type=LoadColours)
    for file in Path(IMAGES).glob("*.jpg"):
        np.save(file.with_suffix(".npy"), np.array(Image.open(file)))
        file.unlink()
        map_file = Path(MAP).with_name(f"{file.stem}.png")
        labels = np.array(Image.open(map_file)) - 1
        Image.fromarray(np.stack([labels, labels, labels], -1)).save(map_file)
    assert [found for found in check(cfg) if found[0] == ERROR] == []
    check_data(cfg, "train_dataloader")


class Rename(BaseTransform):
    """A user's, before a loader of mmseg."""

    def transform(self, results):
        return {**results, "img_path": results["img_path"].replace("?", "")}


def test_a_step_of_the_user_before_the_loader():
    cfg = config("segmentation")
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type=Rename))
    assert [found for found in check(cfg) if found[0] == ERROR] == []


def test_labels_that_a_transform_of_the_user_may_change():
    cfg = config("segmentation")
    labels = np.array(Image.open(MAP))
    labels[:20, :20] = 6
    Image.fromarray(labels).save(MAP)
    assert any(severity == ERROR and "out of range: 6" in text for severity, _, text in check(cfg))
    cfg.train_dataloader.dataset.pipeline.insert(2, dict(type=Renumber))
    found = [severity for severity, _, text in check(cfg) if "out of range: 6" in text]
    assert found == [WARNING]


def test_evaluated_map_of_another_size():
    """It is not called resized, nor its pipeline wrong."""
    path = next(iter(sorted(Path("data/ade/annotations/validation").iterdir())))
    labels = np.array(Image.open(path))
    height, width = labels.shape
    Image.fromarray(labels[:-8]).save(path)
    words = f"{path} has another size than its image: {width}x{height - 8}, the image "
    found = quick_error(config("segmentation"), "val_dataloader")
    assert found.startswith(f"{words}{width}x{height} as it is loaded")
    (error,) = (f for f in check(config("segmentation"), "val") if f[0] == ERROR)
    assert error[1] == str(path) and "has another size than its image" in error[2]
